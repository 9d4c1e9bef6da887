//! What a token must say before it counts. The signature has been checked by then; here every claim is checked as
//! strictly as the libraries' defaults are not: they let a missing audience, a float or an expiry in a billion years pass.

use serde_json::{Map, Value};

/// Clocks of two machines may differ by this much.
const LEEWAY_SECONDS: u64 = 5;
/// A token that is good for longer is a mistake or a forgery.
const LIFETIME_LIMIT_SECONDS: u64 = 366 * 24 * 3600;
/// Longest subject and issuer, in characters.
const NAME_LIMIT: usize = 255;

/// What the installation asks of a token.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// The `iss` that counts; none: any, or none.
    pub(crate) issuer: Option<String>,
    /// The `aud` that must be among the token's; none: the token must have none.
    pub(crate) audience: Option<String>,
}

/// Who the token speaks for, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `iss`, empty without one.
    pub(crate) issuer: String,
    /// `sub`.
    pub(crate) subject: String,
    /// `email`, if it is one that can be kept.
    pub(crate) email: Option<String>,
    /// `exp`, in seconds since 1970.
    pub(crate) expires_at: u64,
}

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token has no exp, or one that is not a whole number")]
    Expiry,
    #[error("the token has expired")]
    Expired,
    #[error("the token is good for longer than a year")]
    TooLong,
    #[error("the token is not good yet, or its nbf is not a whole number")]
    NotYet,
    #[error("the token's iat is not a whole number")]
    IssuedAt,
    #[error("the token's issuer is not the one that counts here")]
    Issuer,
    #[error("the token is not meant for this audience")]
    Audience,
    #[error("the token's sub must be a text of 1 to 255 characters without control characters")]
    Subject,
}

/// Checks all claims; `now` in seconds since 1970.
pub(crate) fn check(
    claims: &Map<String, Value>,
    policy: &Policy,
    now: u64,
) -> Result<Identity, Refusal> {
    let expires_at = claims
        .get("exp")
        .and_then(Value::as_u64)
        .ok_or(Refusal::Expiry)?;
    if expires_at.saturating_add(LEEWAY_SECONDS) <= now {
        return Err(Refusal::Expired);
    }
    if expires_at > now + LIFETIME_LIMIT_SECONDS {
        return Err(Refusal::TooLong);
    }
    let not_before = whole(claims, "nbf", Refusal::NotYet)?;
    if not_before.is_some_and(|not_before| not_before > now + LEEWAY_SECONDS) {
        return Err(Refusal::NotYet);
    }
    whole(claims, "iat", Refusal::IssuedAt)?;
    let issuer = match claims.get("iss") {
        None => "",
        Some(issuer) => issuer
            .as_str()
            .filter(|issuer| is_name(issuer))
            .ok_or(Refusal::Issuer)?,
    };
    if policy
        .issuer
        .as_deref()
        .is_some_and(|wanted| wanted != issuer)
    {
        return Err(Refusal::Issuer);
    }
    if !is_meant_for(claims.get("aud"), policy.audience.as_deref()) {
        return Err(Refusal::Audience);
    }
    let subject = claims
        .get("sub")
        .and_then(Value::as_str)
        .filter(|subject| is_name(subject))
        .ok_or(Refusal::Subject)?;
    let email = claims
        .get("email")
        .and_then(Value::as_str)
        .filter(|email| is_name(email));
    Ok(Identity {
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        email: email.map(str::to_owned),
        expires_at,
    })
}

/// An optional whole number.
fn whole(
    claims: &Map<String, Value>,
    claim: &str,
    refusal: Refusal,
) -> Result<Option<u64>, Refusal> {
    claims
        .get(claim)
        .map(|value| value.as_u64().ok_or(refusal))
        .transpose()
}

/// RFC 7519: a token with an audience counts only where that audience is named.
fn is_meant_for(audience: Option<&Value>, wanted: Option<&str>) -> bool {
    match (audience, wanted) {
        (None, wanted) => wanted.is_none(),
        (Some(Value::String(one)), Some(wanted)) => one == wanted,
        (Some(Value::Array(several)), Some(wanted)) => {
            several.iter().all(Value::is_string) && several.iter().any(|one| one == wanted)
        }
        (Some(_), _) => false,
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_LIMIT).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn verdict(changes: Value, policy: &Policy) -> Result<Identity, Refusal> {
        let mut claims = Map::from_iter([
            ("sub".to_owned(), json!("ada")),
            ("exp".to_owned(), json!(NOW + 60)),
        ]);
        let Value::Object(changes) = changes else {
            unreachable!("changes are an object")
        };
        for (claim, value) in changes {
            if value.is_null() {
                claims.remove(&claim)
            } else {
                claims.insert(claim, value)
            };
        }
        check(&claims, policy, NOW)
    }

    #[test]
    fn each_claim_is_checked_strictly() {
        use Refusal::{Audience, Expired, Expiry, IssuedAt, Issuer, NotYet, Subject, TooLong};
        let table = [
            (json!({"exp": null}), Err(Expiry)),
            (json!({"exp": 1_800_000_060.5}), Err(Expiry)),
            (json!({"exp": 1_800_000_060.0}), Err(Expiry)),
            (json!({"exp": "1800000060"}), Err(Expiry)),
            (json!({"exp": -1}), Err(Expiry)),
            (json!({"exp": u64::MAX}), Err(TooLong)),
            (json!({"exp": NOW + 367 * 86_400}), Err(TooLong)),
            (json!({"exp": NOW - 5}), Err(Expired)),
            (json!({"exp": NOW - 4}), Ok(())),
            (json!({"exp": 0}), Err(Expired)),
            (json!({"nbf": NOW + 6}), Err(NotYet)),
            (json!({"nbf": NOW + 5}), Ok(())),
            (json!({"nbf": "0"}), Err(NotYet)),
            (json!({"iat": 1.5}), Err(IssuedAt)),
            (json!({"iat": NOW}), Ok(())),
            (json!({"iss": 1}), Err(Issuer)),
            (json!({"iss": ""}), Err(Issuer)),
            (json!({"iss": "anybody"}), Ok(())),
            (json!({"aud": "codelab"}), Err(Audience)),
            (json!({"sub": null}), Err(Subject)),
            (json!({"sub": 7}), Err(Subject)),
            (json!({"sub": ""}), Err(Subject)),
            (json!({"sub": "a\u{0}b"}), Err(Subject)),
            (json!({"sub": "x".repeat(256)}), Err(Subject)),
            (json!({"sub": "ü".repeat(255)}), Ok(())),
            (json!({"sub": "tenant:ada"}), Ok(())),
            (json!({"email": 3}), Ok(())),
        ];
        for (changes, expected) in table {
            assert_eq!(
                verdict(changes.clone(), &Policy::default()).map(drop),
                expected,
                "{changes}"
            );
        }
    }

    #[test]
    fn a_configured_issuer_and_audience_are_required() {
        let policy = Policy {
            issuer: Some("us".to_owned()),
            audience: Some("codelab".to_owned()),
        };
        let table = [
            (json!({"iss": "us", "aud": "codelab"}), Ok(())),
            (json!({"iss": "us", "aud": ["other", "codelab"]}), Ok(())),
            (json!({"aud": "codelab"}), Err(Refusal::Issuer)),
            (
                json!({"iss": "them", "aud": "codelab"}),
                Err(Refusal::Issuer),
            ),
            (json!({"iss": "us"}), Err(Refusal::Audience)),
            (json!({"iss": "us", "aud": []}), Err(Refusal::Audience)),
            (
                json!({"iss": "us", "aud": ["other"]}),
                Err(Refusal::Audience),
            ),
            (
                json!({"iss": "us", "aud": ["codelab", 1]}),
                Err(Refusal::Audience),
            ),
            (
                json!({"iss": "us", "aud": {"codelab": true}}),
                Err(Refusal::Audience),
            ),
        ];
        for (changes, expected) in table {
            assert_eq!(
                verdict(changes.clone(), &policy).map(drop),
                expected,
                "{changes}"
            );
        }
    }
}
