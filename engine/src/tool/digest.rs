//! What an approval is bound to: a digest of exactly what was shown.

use std::fmt::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The digest of one call of one version of a tool, as lowercase hexadecimal digits.
pub fn of_call(tool: &str, version: i32, arguments: &Value) -> String {
    of(&json!({ "tool": tool, "version": version, "arguments": arguments }))
}

/// The SHA-256 of a document in its canonical form: no spaces, the names of each object in the order of their bytes. Two documents
/// that Postgres takes for the same `jsonb` have the same digest.
pub fn of(document: &Value) -> String {
    let mut text = String::new();
    write_canonical(document, &mut text);
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Depth is bounded by the parser that made the document (128).
fn write_canonical(document: &Value, text: &mut String) {
    match document {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            text.push('{');
            for (place, name) in names.into_iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                let _ = write!(text, "{}:", Value::String(name.clone()));
                write_canonical(&fields[name], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_names_does_not_matter_and_everything_else_does() {
        let digest = |text: &str| {
            serde_json::from_str(text)
                .map(|value: Value| of(&value))
                .ok()
        };
        let same = [r#"{"a":1,"b":[1,2]}"#, r#"{ "b": [1, 2], "a": 1 }"#];
        assert_eq!(digest(same[0]), digest(same[1]));
        for other in [
            r#"{"a":1,"b":[2,1]}"#,
            r#"{"a":"1","b":[1,2]}"#,
            r#"{"a":1,"b":[1,2],"c":null}"#,
            r#"{"a":1}"#,
        ] {
            assert_ne!(digest(same[0]), digest(other), "{other}");
        }
        assert_ne!(of_call("pay", 1, &json!({})), of_call("pay", 2, &json!({})));
    }
}
