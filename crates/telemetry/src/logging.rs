//! Set-up of the process's own log: `tracing` to standard error, text or JSON, level by filter.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "text" | "plain" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("log format {other:?} is neither text nor json")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("log filter {0:?} is not of the form LEVEL or TARGET=LEVEL,…: {1}")]
    Filter(String, tracing_subscriber::filter::ParseError),
    #[error("a logger is installed already: {0}")]
    Installed(tracing_subscriber::util::TryInitError),
}

/// Installs the process's logger, and routes the `log` facade (aya's) into it.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LoggingError> {
    let parsed = EnvFilter::try_new(filter).map_err(|e| LoggingError::Filter(filter.to_owned(), e))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    installed.map_err(LoggingError::Installed)
}
