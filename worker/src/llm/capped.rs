//! A body that can neither grow without end nor fall silent.
//!
//! It stands before the parser: no parser of server-sent events bounds a line, so a vendor (or
//! whoever answers at a user's base URL) could fill the memory with one.

use std::fmt;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::time::timeout;

use super::failure::chain;

/// Bytes of one line.
const LINE_LIMIT: usize = 1024 * 1024;
/// Bytes of one answer.
const BODY_LIMIT: usize = 8 * 1024 * 1024;

/// Why a body ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// A line is longer than [`LINE_LIMIT`].
    LongLine,
    /// The body is longer than [`BODY_LIMIT`].
    LongBody,
    /// Nothing came for this long.
    Silent(Duration),
    /// The connection failed.
    Connection(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongLine => write!(
                out,
                "a line of the answer is longer than {LINE_LIMIT} bytes"
            ),
            Self::LongBody => write!(out, "the answer is longer than {BODY_LIMIT} bytes"),
            Self::Silent(waited) => write!(out, "nothing came for {} ms", waited.as_millis()),
            Self::Connection(error) => write!(out, "the stream was truncated: {error}"),
        }
    }
}

/// Passes `body` on, bounded: `first` is the time left for its first piece, `idle` the time for
/// each later one. Ends after the first error.
pub(super) fn capped<S, B>(
    body: S,
    first: Duration,
    idle: Duration,
) -> impl Stream<Item = Result<B, Broken>>
where
    S: Stream<Item = reqwest::Result<B>>,
    B: AsRef<[u8]>,
{
    let start = (Box::pin(body), Meter::default(), first);
    stream::try_unfold(start, move |(mut body, mut meter, patience)| async move {
        match timeout(patience, body.next()).await {
            Err(_) => Err(Broken::Silent(patience)),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(Broken::Connection(chain(&error.without_url()))),
            Ok(Some(Ok(bytes))) => {
                meter.count(bytes.as_ref())?;
                Ok(Some((bytes, (body, meter, idle))))
            }
        }
    })
}

/// Counts what has come so far.
#[derive(Default)]
struct Meter {
    line: usize,
    body: usize,
}

impl Meter {
    fn count(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.body += bytes.len();
        for (index, piece) in bytes
            .split(|byte| matches!(byte, b'\n' | b'\r'))
            .enumerate()
        {
            self.line = if index == 0 {
                self.line + piece.len()
            } else {
                piece.len()
            };
            if self.line > LINE_LIMIT {
                return Err(Broken::LongLine);
            }
        }
        if self.body > BODY_LIMIT {
            Err(Broken::LongBody)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_span_pieces_but_not_pass_the_limit() {
        let mut meter = Meter::default();
        let half = vec![b'x'; LINE_LIMIT / 2];
        assert!(meter.count(&half).is_ok());
        assert!(meter.count(&half).is_ok(), "exactly the limit is fine");
        assert!(meter.count(b"\r\n").is_ok());
        assert!(
            meter.count(&half).is_ok(),
            "a line's end starts a new count"
        );
        assert!(meter.count(&half).is_ok());
        assert!(matches!(meter.count(b"x\n"), Err(Broken::LongLine)));
    }

    #[test]
    fn short_lines_still_add_up_to_a_body() {
        let mut meter = Meter::default();
        let kib = [[b'x'; 1023].as_slice(), b"\n"].concat();
        for _ in 0..BODY_LIMIT / 1024 {
            assert!(meter.count(&kib).is_ok());
        }
        assert!(matches!(meter.count(b"\n"), Err(Broken::LongBody)));
    }
}
