//! Builds the kernel programs.

use anyhow::Result;

pub(crate) fn build() -> Result<()> {
    Ok(())
}
