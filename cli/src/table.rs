//! Plain tables, as kubectl and istioctl print them, and structured output beside them.

use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
}

/// Prints a head and rows without borders; columns keep their full width when the output is not a terminal.
pub(crate) fn print(head: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    say(&table.trim_fmt());
}

/// Prints a line; a reader that has gone away (`| head`) is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a value for other programs; whether the output asked for that.
pub(crate) fn structured(output: Output, value: &impl Serialize) -> anyhow::Result<bool> {
    match output {
        Output::Table => return Ok(false),
        Output::Json => say(&serde_json::to_string_pretty(value).context("cannot write JSON")?),
        Output::Yaml => {
            let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
            say(text.trim_end());
        }
    }
    Ok(true)
}
