//! Which statements a client of Postgres runs, read off the wire: just enough of the protocol to tell one commit from another.

use std::collections::HashMap;

/// A message longer than this means that we are out of step.
const LONGEST: usize = 64 << 20;

/// Follows what one client sends from its first byte on.
#[derive(Debug, Default)]
pub struct Statements {
    begun: bool,
    pending: Vec<u8>,
    prepared: HashMap<Vec<u8>, String>,
}

impl Statements {
    /// Takes in the next bytes; the texts of the statements that they run.
    pub fn follow(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let mut run = Vec::new();
        while let Some((kind, body)) = self.message() {
            match kind {
                b'P' => self.prepare(&body),
                b'B' => run.extend(self.bound(&body)),
                b'Q' => run.extend(text(&body)),
                _ => {}
            }
        }
        run
    }

    /// The next whole message: its type and what is in it. The very first has no type.
    fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = usize::from(self.begun);
        let length = self.pending.get(head..head + 4)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if !(4..LONGEST).contains(&length) || self.pending.len() < head + length {
            return None;
        }
        let kind = if self.begun { self.pending[0] } else { 0 };
        let body = self.pending[head + 4..head + length].to_vec();
        self.pending.drain(..head + length);
        self.begun = true;
        Some((kind, body))
    }

    fn prepare(&mut self, body: &[u8]) {
        let mut parts = body.splitn(3, |byte| *byte == 0);
        if let (Some(name), Some(sql)) = (parts.next(), parts.next()) {
            self.prepared
                .insert(name.to_vec(), String::from_utf8_lossy(sql).into_owned());
        }
    }

    fn bound(&self, body: &[u8]) -> Option<String> {
        let name = body.split(|byte| *byte == 0).nth(1)?;
        self.prepared.get(name).cloned()
    }
}

fn text(body: &[u8]) -> Option<String> {
    let sql = body.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(sql).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4)
            .unwrap_or_default()
            .to_be_bytes();
        let head = if kind == 0 { Vec::new() } else { vec![kind] };
        [head, length.to_vec(), body.to_vec()].concat()
    }

    #[test]
    fn a_statement_is_known_by_its_name_however_the_bytes_come() {
        let wire = [
            message(0, b"\0\x03\0\0user\0app\0\0"),
            message(b'P', b"s1\0select pg_temp.step_finish($1)\0\0\0"),
            message(b'B', b"\0s1\0\0\0"),
            message(b'Q', b"select 1\0"),
        ]
        .concat();
        for size in [1, 7, wire.len()] {
            let mut statements = Statements::default();
            let run: Vec<String> = wire
                .chunks(size)
                .flat_map(|piece| statements.follow(piece))
                .collect();
            assert_eq!(run, ["select pg_temp.step_finish($1)", "select 1"]);
        }
    }
}
