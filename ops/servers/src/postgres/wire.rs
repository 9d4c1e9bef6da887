//! The few bytes of Postgres' protocol needed to ask "are you there" and to create a database.
//!
//! Neither `pg_isready` nor `psql` are needed then (some systems package them apart), and no
//! database driver either, which would tie this crate to an async runtime.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The superuser that `initdb` makes.
pub(crate) const USER: &str = "app";

/// Every cluster has a private socket folder, so all can have the same port.
pub(crate) const PORT: u16 = 5432;

/// Version 3.0 of the protocol.
const PROTOCOL: i32 = 196_608;

/// Answers are a few hundred bytes; a longer one means we are out of step.
const LONGEST_MESSAGE: usize = 1 << 20;

/// How long a server may think before it answers. Copying a large template takes seconds.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a server says to a first connection.
pub(crate) enum Answer {
    /// Nobody listens yet.
    Silence,
    /// It lives but repairs its data first.
    StartingUp,
    /// It takes queries.
    Ready,
}

/// Why a query did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{message}")]
    Server { code: String, message: String },
}

/// Connects once, as any client would.
pub(crate) fn probe(sockets: &Path) -> Answer {
    match Session::connect(sockets) {
        Ok(_) => Answer::Ready,
        Err(WireError::Server { .. }) => Answer::StartingUp,
        Err(WireError::Io(_)) => Answer::Silence,
    }
}

/// Runs one statement whose result nobody reads.
pub(crate) fn execute(sockets: &Path, sql: &str) -> Result<(), WireError> {
    let mut session = Session::connect(sockets)?;
    session.send(b"Q", &[sql.as_bytes(), b"\0"].concat())?;
    session.until_ready()
}

struct Session(UnixStream);

impl Session {
    fn connect(sockets: &Path) -> Result<Self, WireError> {
        let stream = UnixStream::connect(sockets.join(format!(".s.PGSQL.{PORT}")))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = Self(stream);
        let hello = format!("user\0{USER}\0database\0postgres\0\0");
        session.send(b"", &[&PROTOCOL.to_be_bytes(), hello.as_bytes()].concat())?;
        session.until_ready()?;
        Ok(session)
    }

    /// A message is its kind, its length (itself included) and its body.
    fn send(&mut self, kind: &[u8], body: &[u8]) -> io::Result<()> {
        let length = i32::try_from(body.len() + 4).map_err(io::Error::other)?;
        self.0
            .write_all(&[kind, &length.to_be_bytes(), body].concat())
    }

    /// Reads up to "ready for query" and remembers an error on the way. A refused connection
    /// has no "ready": there the stream ends after the error.
    fn until_ready(&mut self) -> Result<(), WireError> {
        let mut failure = None;
        loop {
            match (self.receive(), failure.take()) {
                (Ok((b'Z', _)), None) => return Ok(()),
                (Ok((b'Z', _)) | Err(_), Some(error)) => return Err(error),
                (Err(error), None) => return Err(error.into()),
                (Ok((b'E', body)), _) => failure = Some(server_error(&body)),
                (Ok(_), earlier) => failure = earlier,
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
        let length = length
            .checked_sub(4)
            .filter(|length| *length <= LONGEST_MESSAGE);
        let mut body = vec![0; length.ok_or_else(|| io::Error::other("not a Postgres message"))?];
        self.0.read_exact(&mut body)?;
        Ok((kind, body))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A polite end, else the server logs a lost connection.
        let _ = self.send(b"X", &[]);
    }
}

/// An error is a list of fields: a letter, text, zero.
fn server_error(body: &[u8]) -> WireError {
    let field = |letter: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let text = fields.find_map(|field| field.strip_prefix(&[letter]));
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    };
    WireError::Server {
        code: field(b'C'),
        message: field(b'M'),
    }
}
