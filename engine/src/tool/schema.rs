//! Checks of arguments and answers against a JSON Schema.
//!
//! A schema comes from a user: the crate is compiled without its resolvers, so that a `$ref` reads no file and calls nobody, and the
//! regular expressions in it run in linear time.

use jsonschema::PatternOptions;
use serde_json::Value;

/// Complaints reported at once.
const COMPLAINTS: usize = 10;

/// A value that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// JSON pointer into the value.
    pub pointer: String,
    /// What is wrong, without the value itself.
    pub message: String,
}

/// Why a value was not found to fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The schema is none.
    #[error("the schema cannot be used: {0}")]
    Schema(String),
    /// The value does not fit it.
    #[error("it does not fit the schema: {}", .0.iter().map(|one| format!("{} {}", one.pointer, one.message)).collect::<Vec<_>>().join("; "))]
    Value(Vec<Misfit>),
}

/// Whether a value fits a schema.
pub fn check(schema: &Value, value: &Value) -> Result<(), Refusal> {
    let validator = jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| Refusal::Schema(error.to_string()))?;
    let misfits: Vec<Misfit> = validator
        .iter_errors(value)
        .take(COMPLAINTS)
        .map(|error| Misfit {
            pointer: error.instance_path().to_string(),
            message: error.masked().to_string(),
        })
        .collect();
    if misfits.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Value(misfits))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_named_and_not_repeated() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 5}}});
        assert_eq!(check(&schema, &json!({"n": 3})), Ok(()));
        let refused = check(&schema, &json!({"n": "secret"}));
        assert!(
            matches!(&refused, Err(Refusal::Value(misfits)) if misfits[0].pointer == "/n"),
            "{refused:?}"
        );
        assert!(!format!("{refused:?}").contains("secret"));
    }

    #[test]
    fn a_schema_reads_no_file_and_calls_nobody() {
        for reference in ["file:///etc/hostname", "http://127.0.0.1:9/schema.json"] {
            let refused = check(&json!({ "$ref": reference }), &json!({}));
            assert!(matches!(refused, Err(Refusal::Schema(_))), "{refused:?}");
        }
    }

    #[test]
    fn an_evil_pattern_costs_nothing() {
        let schema = json!({"type": "string", "pattern": "^(a+)+$"});
        let text = format!("{}!", "a".repeat(50_000));
        assert!(check(&schema, &json!(text)).is_err());
    }
}
