//! Whose word counts: every forged, foreign, stale or odd token is refused, and nobody comes into being by it.

use api::{
    ApiConfig,
    auth::{AuthConfig, AuthConfigError, SecretString, dev_token},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, SECRET, answer, secret};

const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding.
pub(super) fn encoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        for place in 0..=chunk.len() {
            text.push(char::from(URL_SAFE[bits >> (18 - 6 * place) & 63]));
        }
    }
    text
}

fn now() -> u64 {
    chrono::Utc::now()
        .timestamp()
        .try_into()
        .expect("after 1970")
}

fn signed(header: &Header, claims: &Value, key: &[u8]) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(key)).expect("a token")
}

/// A good token but for these claims; null takes one away.
#[expect(
    clippy::needless_pass_by_value,
    reason = "tables read better without references"
)]
fn with(changes: Value) -> String {
    let mut claims = json!({"sub": "ada", "exp": now() + 60});
    for (claim, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(claim)),
            value => claims[claim] = value.clone(),
        }
    }
    signed(&Header::new(Algorithm::HS256), &claims, SECRET.as_bytes())
}

async fn ask(api: &Api, authorization: &str) -> Answer {
    answer(
        api.open(Method::GET, "/my/agents/")
            .header("authorization", authorization),
    )
    .await
}

async fn users(api: &Api) -> i64 {
    sqlx::query_scalar("select count(*) from users")
        .fetch_one(api.store.pool())
        .await
        .expect("a count")
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_forged_or_odd_token_is_refused_and_nobody_comes_into_being() {
    let api = Api::start().await;
    let good = with(json!({}));
    let (head, rest) = good.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    let header = |algorithm| Header::new(algorithm);
    let claims = json!({"sub": "ada", "exp": now() + 60});
    let mut crit = header(Algorithm::HS256);
    crit.crit = Some(vec!["b64".to_owned()]);
    let none = encoded(br#"{"alg":"none","typ":"JWT"}"#);
    let changed = encoded(br#"{"sub":"root","exp":4102444800}"#);
    let table = [
        ("alg none", format!("{none}.{body}.")),
        (
            "alg none, signature kept",
            format!("{none}.{body}.{signature}"),
        ),
        (
            "alg None",
            format!("{}.{body}.", encoded(br#"{"alg":"None"}"#)),
        ),
        (
            "no alg",
            format!("{}.{body}.{signature}", encoded(br#"{"typ":"JWT"}"#)),
        ),
        (
            "another secret",
            signed(
                &header(Algorithm::HS256),
                &claims,
                b"another secret of thirty-two bytes",
            ),
        ),
        (
            "empty secret",
            signed(&header(Algorithm::HS256), &claims, b""),
        ),
        (
            "another family member",
            signed(&header(Algorithm::HS512), &claims, SECRET.as_bytes()),
        ),
        ("body changed", format!("{head}.{changed}.{signature}")),
        (
            "signature cut",
            format!("{head}.{body}.{}", &signature[..20]),
        ),
        ("signature empty", format!("{head}.{body}.")),
        (
            "unknown critical extension",
            signed(&crit, &claims, SECRET.as_bytes()),
        ),
        (
            "claims not an object",
            signed(
                &header(Algorithm::HS256),
                &json!(["ada"]),
                SECRET.as_bytes(),
            ),
        ),
        ("expired", with(json!({"exp": now() - 6}))),
        ("no exp", with(json!({"exp": null}))),
        ("exp a float", with(json!({"exp": 4_102_444_800.5}))),
        ("exp a text", with(json!({"exp": (now() + 60).to_string()}))),
        ("exp negative", with(json!({"exp": -1}))),
        ("exp absurd", with(json!({"exp": u64::MAX}))),
        (
            "exp in two years",
            with(json!({"exp": now() + 2 * 366 * 86_400})),
        ),
        ("not yet", with(json!({"nbf": now() + 3600}))),
        ("nbf a text", with(json!({"nbf": "0"}))),
        (
            "audience nobody asked for",
            with(json!({"aud": "another service"})),
        ),
        ("no sub", with(json!({"sub": null}))),
        ("empty sub", with(json!({"sub": ""}))),
        ("sub a number", with(json!({"sub": 1}))),
        ("NUL in sub", with(json!({"sub": "ada\u{0}"}))),
        ("10 KB of sub", with(json!({"sub": "a".repeat(10_240)}))),
        (
            "a token of 20 KB",
            with(json!({"padding": "a".repeat(15_000)})),
        ),
        ("nothing like a token", "ada".to_owned()),
        ("dots", "...".to_owned()),
    ];
    for (what, token) in table {
        let refused = ask(&api, &format!("Bearer {token}")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(refused.problem(), "unauthorized", "{what}");
        assert_eq!(
            refused.header("www-authenticate"),
            r#"Bearer error="invalid_token""#,
            "{what}"
        );
    }
    assert_eq!(users(&api).await, 0);
    assert_eq!(
        ask(&api, &format!("bearer {good}")).await.status,
        StatusCode::OK,
        "the scheme is not case-sensitive"
    );
    assert_eq!(users(&api).await, 1);
}

#[tokio::test]
async fn without_a_bearer_token_there_is_only_a_challenge() {
    let api = Api::start().await;
    let good = Api::token("ada");
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRhOnNlY3JldA==",
        &format!("Token {good}"),
        &good,
    ] {
        let refused = ask(&api, authorization).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (StatusCode::UNAUTHORIZED, "unauthorized"),
            "{authorization}"
        );
        assert_eq!(
            refused.header("www-authenticate"),
            "Bearer",
            "{authorization}"
        );
    }
    // A token in the URL is no token, and two headers are none either.
    let in_url = answer(api.open(Method::GET, &format!("/my/agents/?access_token={good}"))).await;
    assert_eq!(in_url.status, StatusCode::UNAUTHORIZED);
    let twice = api
        .open(Method::GET, "/my/agents/")
        .bearer_auth(&good)
        .bearer_auth(&good);
    assert_eq!(answer(twice).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_same_subject_of_two_issuers_is_two_people() {
    let api = Api::start().await;
    let token = |issuer| {
        dev_token(
            &secret(),
            "ada",
            std::time::Duration::from_mins(1),
            issuer,
            None,
        )
        .expect("a token")
    };
    for issuer in [None, Some("one"), Some("two")] {
        let made = answer(
            api.open(Method::POST, "/my/agents/")
                .bearer_auth(token(issuer))
                .json(&json!({"name": "coder"})),
        )
        .await;
        assert_eq!(
            made.status,
            StatusCode::CREATED,
            "the name is free for each: {}",
            made.text
        );
    }
    assert_eq!(users(&api).await, 3);
    // A colon, a quote or another script in a subject is a name like any other.
    for subject in ["tenant:ada", "'; drop table users; --", "\u{430}d\u{430}"] {
        assert_eq!(
            ask(&api, &format!("Bearer {}", with(json!({"sub": subject}))))
                .await
                .status,
            StatusCode::OK
        );
    }
    assert_eq!(users(&api).await, 6);
}

#[tokio::test]
async fn a_configured_issuer_and_audience_are_asked_of_every_token() {
    let mut auth = AuthConfig::hs256(secret());
    (auth.issuer, auth.audience) = (Some("us".to_owned()), Some("codelab".to_owned()));
    let api = Api::start_with(ApiConfig::new(auth)).await;
    let table = [
        (json!({"iss": "us", "aud": "codelab"}), StatusCode::OK),
        (
            json!({"iss": "us", "aud": ["codelab", "other"]}),
            StatusCode::OK,
        ),
        (json!({}), StatusCode::UNAUTHORIZED),
        (json!({"iss": "us"}), StatusCode::UNAUTHORIZED),
        (json!({"aud": "codelab"}), StatusCode::UNAUTHORIZED),
        (
            json!({"iss": "them", "aud": "codelab"}),
            StatusCode::UNAUTHORIZED,
        ),
        (
            json!({"iss": "us", "aud": "other"}),
            StatusCode::UNAUTHORIZED,
        ),
        (
            json!({"iss": ["us"], "aud": "codelab"}),
            StatusCode::UNAUTHORIZED,
        ),
    ];
    for (claims, expected) in table {
        assert_eq!(
            ask(&api, &format!("Bearer {}", with(claims.clone())))
                .await
                .status,
            expected,
            "{claims}"
        );
    }
}

#[test]
fn a_short_secret_is_refused_before_anything_starts() {
    let short = AuthConfig::hs256(SecretString::from("x".repeat(31)));
    assert_eq!(short.check(), Err(AuthConfigError::ShortSecret(31)));
    assert!(
        AuthConfig::hs256(SecretString::from("x".repeat(32)))
            .check()
            .is_ok()
    );
    assert!(
        !format!("{short:?}").contains("xxx"),
        "a secret is never printed"
    );
}

#[test]
fn base64_as_the_standard_has_it() {
    // RFC 4648, section 10.
    let table = [
        ("", ""),
        ("f", "Zg"),
        ("fo", "Zm8"),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg"),
        ("fooba", "Zm9vYmE"),
        ("foobar", "Zm9vYmFy"),
    ];
    for (text, expected) in table {
        assert_eq!(encoded(text.as_bytes()), expected);
    }
}
