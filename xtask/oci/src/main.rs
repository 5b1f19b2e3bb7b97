//! `aquifer-oci`: reads a description of images on standard input, writes one archive that `ctr`,
//! `kind`, `docker load` and `skopeo` take, and prints what is in it as JSON.
//!
//! A package of its own so that `xtask` starts without compression and digests. The same description
//! and files give the same bytes: no clock, no file times, no owner and no order of a directory gets in.
//! Read [`description::Archive`] and [`archive::write`] first.
#![forbid(unsafe_code)]

mod archive;
mod blob;
mod description;
mod image;
mod layer;

use std::io::Read;

use anyhow::{Context, Result};

use crate::description::Archive;

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn main() -> Result<()> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the description from standard input")?;
    let wanted: Archive = serde_json::from_str(&text).context("the description of the images is wrong")?;
    let report = archive::write(&wanted)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
