//! What stands for the sample's MongoDB: a database that is asked over TCP, one line each way.
//!
//! The client sends `find COLLECTION` and a newline; the answer is one line of JSON, either
//! `{"documents":[...],"servedBy":"..."}` or `{"error":"..."}`. A connection may carry any number of
//! such pairs. The one collection is `ratings`, with the documents of the sample's image.

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::answer::ServedBy;
use super::client::{self, Target};

/// Longest line either side accepts.
const MAX_LINE: u64 = 4096;
const COLLECTION: &str = "ratings";
const DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Database {
    me: ServedBy,
}

impl Database {
    pub(crate) fn new(me: ServedBy) -> Self {
        Self { me }
    }

    /// Answers one connection until its client closes it.
    pub(crate) async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        while let Some(line) = read_line(&mut read).await? {
            let mut answer = self.answer(line.trim_end()).to_string();
            answer.push('\n');
            write.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn answer(&self, line: &str) -> Value {
        match line.split_once(' ') {
            Some(("find", COLLECTION)) => {
                json!({ "documents": [{ "rating": 5 }, { "rating": 4 }], "servedBy": self.me.to_string() })
            }
            Some(("find", other)) => {
                json!({ "error": format!("no collection {other}; there is {COLLECTION}") })
            }
            _ => json!({ "error": "expected: find COLLECTION" }),
        }
    }
}

/// A line with its newline; none at the end of the stream. A longer one ends the connection.
async fn read_line(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    if read.take(MAX_LINE).read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the line is cut short or too long",
        ));
    }
    Ok(Some(line))
}

#[derive(Debug, Error)]
pub(crate) enum QueryError {
    #[error("could not connect to ratings database")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("could not load ratings from database")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Found {
    pub(crate) documents: Vec<Document>,
    #[serde(rename = "servedBy")]
    pub(crate) served_by: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    pub(crate) rating: i64,
}

/// Asks for the ratings over a connection of its own, as the sample does.
pub(crate) async fn query(target: &Target) -> Result<Found, QueryError> {
    let stream = tokio::time::timeout(DEADLINE, client::connect_tcp(target))
        .await
        .map_err(|elapsed| QueryError::Connect(elapsed.into()))?
        .map_err(|error| QueryError::Connect(error.into()))?;
    tokio::time::timeout(DEADLINE, exchange(stream))
        .await
        .map_err(|elapsed| QueryError::Load(elapsed.into()))?
        .map_err(|error| QueryError::Load(error.into()))
}

async fn exchange(mut stream: TcpStream) -> io::Result<Found> {
    stream
        .write_all(format!("find {COLLECTION}\n").as_bytes())
        .await?;
    let line = read_line(&mut BufReader::new(stream))
        .await?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the database closed the connection"))?;
    Ok(serde_json::from_str(&line)?)
}
