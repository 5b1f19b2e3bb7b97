//! Which local command stands for an image.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Rules in the order of their precedence.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageMap {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rule {
    glob: String,
    command: Vec<String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImageError {
    #[error("image mapping {0:?}: expected GLOB=COMMAND")]
    Syntax(String),
    #[error("image mapping {mapping:?}: the command has an unfinished quote")]
    Quote { mapping: String },
    #[error("image mapping {mapping:?}: no program {program:?}; build or install it, or give its path")]
    NoProgram { mapping: String, program: String },
    #[error("image {0:?} has no mapping and its container no command: add --image '{0}=COMMAND'")]
    Unmapped(String),
}

/// The mesh's own programs lie beside the lab's.
const BUILT_IN: &[(&str, &str)] = &[
    ("aquifer/control", "aquifer-control"),
    ("aquifer/agent", "aquifer-agent"),
    ("aquifer/waypoint", "aquifer-waypoint"),
];

impl ImageMap {
    /// Parses `GLOB=COMMAND` rules and looks their programs up, so that a typing error shows at once.
    pub(super) fn new(mappings: &[String], lab_program: &Path) -> Result<Self, ImageError> {
        let mut rules = mappings
            .iter()
            .map(|mapping| Rule::parse(mapping))
            .collect::<Result<Vec<_>, _>>()?;
        let folder = lab_program.parent().unwrap_or_else(|| Path::new("/"));
        rules.extend(BUILT_IN.iter().map(|(image, program)| Rule {
            glob: (*image).to_owned(),
            command: vec![folder.join(program).to_string_lossy().into_owned()],
        }));
        Ok(Self { rules })
    }

    /// The command of the first rule that matches the image, with or without its tag.
    pub(super) fn command(&self, image: &str) -> Result<&[String], ImageError> {
        let untagged = without_tag(image);
        let matches = |rule: &&Rule| glob_matches(&rule.glob, image) || glob_matches(&rule.glob, untagged);
        let rule = self.rules.iter().find(matches);
        rule.map(|rule| rule.command.as_slice())
            .ok_or_else(|| ImageError::Unmapped(image.to_owned()))
    }
}

impl Rule {
    fn parse(mapping: &str) -> Result<Self, ImageError> {
        let syntax = || ImageError::Syntax(mapping.to_owned());
        let (glob, command) = mapping.split_once('=').ok_or_else(syntax)?;
        let mut command = split_words(command).ok_or_else(|| ImageError::Quote {
            mapping: mapping.to_owned(),
        })?;
        let program = command
            .first_mut()
            .filter(|_| !glob.is_empty())
            .ok_or_else(syntax)?;
        let found = find_program(program).ok_or_else(|| ImageError::NoProgram {
            mapping: mapping.to_owned(),
            program: program.clone(),
        })?;
        *program = found.to_string_lossy().into_owned();
        Ok(Self {
            glob: glob.to_owned(),
            command,
        })
    }
}

/// The program's absolute path: as given, or found on PATH.
pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program)
            .ok()
            .filter(|path| is_executable(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| is_executable(path))
}

pub(super) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// `registry:5000/name:tag@digest` without tag and digest.
fn without_tag(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// `*` stands for any text, `?` for one character; all else for itself.
fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if g < glob.len() && glob[g] == '*' {
            star = Some((g, t));
            g += 1;
        } else if g < glob.len() && (glob[g] == '?' || glob[g] == text[t]) {
            g += 1;
            t += 1;
        } else if let Some((star_g, star_t)) = star {
            // Let the last star take one character more.
            star = Some((star_g, star_t + 1));
            g = star_g + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// Splits at blanks as a shell would, with single and double quotes and backslashes, nothing else.
fn split_words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_would() {
        for (glob, image, wanted) in [
            ("*", "", true),
            (
                "*examples-bookinfo-*",
                "docker.io/istio/examples-bookinfo-reviews-v1:1.20.3",
                true,
            ),
            ("nginx:1.?", "nginx:1.2", true),
            ("nginx:1.?", "nginx:1.22", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("aquifer/agent", "aquifer/agents", false),
        ] {
            assert_eq!(glob_matches(glob, image), wanted, "{glob} {image}");
        }
    }

    #[test]
    fn the_first_mapping_wins_and_tags_may_be_left_out() {
        let map = ImageMap::new(
            &["app=/bin/sh -c 'echo one'".to_owned(), "app*=/bin/cat".to_owned()],
            Path::new("/opt/aquifer-lab"),
        )
        .unwrap();
        assert_eq!(map.command("app:v1").unwrap(), ["/bin/sh", "-c", "echo one"]);
        assert_eq!(map.command("apple@sha256:0").unwrap(), ["/bin/cat"]);
        assert_eq!(map.command("aquifer/agent:dev").unwrap(), ["/opt/aquifer-agent"]);
    }

    #[test]
    fn an_unknown_image_is_named_with_the_remedy() {
        let map = ImageMap::default();
        let message = map.command("docker.io/x/y:1").unwrap_err().to_string();
        assert!(
            message.contains("docker.io/x/y:1") && message.contains("--image"),
            "{message}"
        );
    }

    #[test]
    fn mappings_that_cannot_work_are_refused() {
        for bad in [
            "x",
            "=cat",
            "x=",
            "x='cat",
            "x=/no/such/program",
            "x=no-such-program",
        ] {
            assert!(Rule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_of_registries_are_not_tags() {
        assert_eq!(without_tag("host:5000/a"), "host:5000/a");
        assert_eq!(without_tag("host:5000/a:1@sha256:x"), "host:5000/a");
    }
}
