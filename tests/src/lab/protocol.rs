//! What clients and the daemon say to each other: one JSON line each way per connection.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::enter::Entry;
use super::images::{ImageError, ImageMap};
use super::layout::LabName;
use super::network::{Families, MAX_NODES};
use super::status::Status;
use super::{LabOptions, Mesh};

/// How a lab is to be built; the daemon reads it from its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpConfig {
    pub name: LabName,
    pub nodes: u8,
    pub families: Families,
    pub mesh: bool,
    pub images: ImageMap,
    /// The lab's own program, started again as node helper and as the first step of every container.
    pub program: PathBuf,
}

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{0} nodes: a lab has 1 to {MAX_NODES}")]
    Nodes(u8),
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl UpConfig {
    pub(super) fn new(
        name: &LabName,
        options: &LabOptions,
        program: &std::path::Path,
    ) -> Result<Self, ConfigError> {
        if options.nodes == 0 || options.nodes > MAX_NODES {
            return Err(ConfigError::Nodes(options.nodes));
        }
        Ok(Self {
            name: name.clone(),
            nodes: options.nodes,
            families: options.families,
            mesh: options.mesh == Mesh::Installed,
            images: ImageMap::new(&options.images, program)?,
            program: program.to_owned(),
        })
    }
}

/// A manifest file: its text, and what to call it in errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    pub origin: String,
    pub text: String,
}

impl Document {
    pub(super) fn inline(text: &str) -> Self {
        Self {
            origin: "manifest".to_owned(),
            text: text.to_owned(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    Apply {
        namespace: String,
        documents: Vec<Document>,
    },
    Delete {
        namespace: String,
        documents: Vec<Document>,
    },
    /// How to enter a pod, or a pod of a workload.
    Exec {
        target: String,
    },
    Node {
        node: String,
    },
    Status,
    /// The status as soon as its generation exceeds `after`, or when the time is over.
    Watch {
        after: u64,
        timeout_ms: u64,
    },
    /// The log files of a pod, a workload, a node's helper or the daemon.
    Logs {
        target: String,
    },
    Kill {
        target: String,
        signal: i32,
        hold: bool,
    },
    Release {
        target: String,
    },
    /// First line of a node helper; the connection then carries orders and reports.
    NodeLink {
        node: String,
    },
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Response {
    Done { lines: Vec<String> },
    Entry { entry: Box<Entry> },
    Status { status: Box<Status> },
    Logs { files: Vec<LogFile> },
    Error { message: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct LogFile {
    pub title: String,
    pub path: PathBuf,
}

impl Response {
    pub(super) fn unexpected(&self) -> String {
        match self {
            Self::Error { message } => message.clone(),
            other => format!("the daemon answered something else: {other:?}"),
        }
    }
}

/// A request is a manifest folder at most.
pub(super) const MAX_LINE: u64 = 64 * 1024 * 1024;
