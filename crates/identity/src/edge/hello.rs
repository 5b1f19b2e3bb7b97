//! The first message of a TLS client, read without answering it.

use rustls::server::Acceptor;

/// A client hello is a few hundred bytes, two kilobytes with the keys of tomorrow.
const LONGEST: usize = 16 * 1024;

/// What a client asks for before anything is proven or encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case, without a final dot.
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("the client does not speak TLS: {0}")]
    NotTls(String),
    #[error("the client's first message is longer than {LONGEST} bytes")]
    TooLong,
}

/// Takes the bytes of a connection as they come until the message is complete.
#[derive(Default)]
pub struct HelloReader {
    acceptor: Acceptor,
    taken: usize,
}

impl HelloReader {
    /// Takes further bytes; `None` while more are needed.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        self.taken += bytes.len();
        while !bytes.is_empty() {
            let read = self.acceptor.read_tls(&mut bytes);
            read.map_err(|e| HelloError::NotTls(e.to_string()))?;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(plain);
                    return Ok(Some(ClientHello { server_name: name }));
                }
                Ok(None) => {}
                Err((error, _)) => return Err(HelloError::NotTls(error.to_string())),
            }
        }
        match self.taken > LONGEST {
            true => Err(HelloError::TooLong),
            false => Ok(None),
        }
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
