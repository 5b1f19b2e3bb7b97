//! Tables of Markdown pages.

pub(crate) struct Page {
    lines: Vec<String>,
}

impl Page {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    /// The rows of the first table below a heading, without its head.
    pub(crate) fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .skip_while(|line| line.trim_start_matches('#').trim() != heading)
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| {
                line.trim_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().to_owned())
                    .collect()
            })
            .collect();
        assert!(!rows.is_empty(), "no table below {heading:?}");
        rows
    }
}

#[test]
fn a_table_is_found_by_its_heading() {
    let page =
        Page::new("# A\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n## B\ntext\n\n| z |\n|---|\n| 3 |\n| 4 |\nend");
    assert_eq!(page.table("A"), [["1", "2"]]);
    assert_eq!(page.table("B"), [["3"], ["4"]]);
}
