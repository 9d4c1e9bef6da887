//! An issuer's published keys: rotated in mid-traffic, gone for a while, asked for kids that never were.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    ApiConfig,
    auth::{AuthConfig, JwksAlgorithm, JwksSource},
};
use codelab_tests::harness::eventually;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, SECRET, answer, auth::encoded};

/// RFC 7515, appendices A.2 and A.3: two keys, and two tokens that expired long ago.
const RFC_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_RSA: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RFC_EC: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn rfc_keys() -> Value {
    json!({"keys": [
        {"kty": "RSA", "kid": "rsa", "use": "sig", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        {"kty": "unheard-of", "kid": "odd"},
        {"kty": "oct", "kid": "shared", "k": "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLCAzMiBieXRlcyBvciBtb3Jl"}
    ]})
}

/// An Ed25519 key pair made of a seed.
struct Pair {
    kid: String,
    key: EncodingKey,
}

impl Pair {
    fn new(seed: u8) -> Self {
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend([seed; 32]);
        Self {
            kid: format!("key-{seed}"),
            key: EncodingKey::from_ed_der(&der),
        }
    }

    fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::EdDSA).expect("a public key");
        jwk.common.key_id = Some(self.kid.clone());
        serde_json::to_value(jwk).expect("JSON")
    }

    fn token(&self, kid: Option<&str>) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = kid.map(str::to_owned);
        let exp = chrono::Utc::now().timestamp() + 60;
        jsonwebtoken::encode(&header, &json!({"sub": "ada", "exp": exp}), &self.key)
            .expect("a token")
    }

    fn good_token(&self) -> String {
        self.token(Some(&self.kid))
    }
}

/// What the issuer publishes, and how often it was asked. Null: it does not answer.
#[derive(Clone)]
struct Issuer {
    document: Arc<Mutex<Value>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    fn new(document: Value) -> Self {
        Self {
            document: Arc::new(Mutex::new(document)),
            fetches: Arc::default(),
        }
    }

    fn publish(&self, document: Value) {
        *self.document.lock().expect("no panic") = document;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn source(&self) -> JwksSource {
        let issuer = self.clone();
        JwksSource::new(Arc::new(move || {
            issuer.fetches.fetch_add(1, Ordering::SeqCst);
            let document = issuer.document.lock().expect("no panic").clone();
            Box::pin(async move {
                if document.is_null() {
                    Err("the issuer is away".into())
                } else {
                    Ok(document)
                }
            })
        }))
    }

    async fn api(&self, change: impl FnOnce(&mut JwksSource)) -> Api {
        let mut source = self.source();
        change(&mut source);
        Api::start_with(ApiConfig::new(AuthConfig::jwks(source))).await
    }
}

async fn ask(api: &Api, token: &str) -> Answer {
    answer(api.open(Method::GET, "/my/agents/").bearer_auth(token)).await
}

#[tokio::test]
async fn published_keys_check_signatures_and_are_never_taken_for_secrets() {
    let api = Issuer::new(rfc_keys()).api(|_| {}).await;
    let rsa = |kid: &str| {
        format!(
            "{}.{RFC_PAYLOAD}.{RFC_RSA}",
            encoded(json!({"alg": "RS256", "kid": kid}).to_string().as_bytes())
        )
    };
    // The RFC signs a header without a kid; the signature is checked before the expiry is, so that the answer tells.
    let expired = "the token has expired";
    let refused = "the token's signature or algorithm does not hold";
    let table = [
        (
            "RSA of the RFC",
            format!("eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.{RFC_RSA}"),
            expired,
        ),
        (
            "EC of the RFC",
            format!("eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}.{RFC_EC}"),
            expired,
        ),
        (
            "RSA with a bit changed",
            format!("eyJhbGciOiJSUzI1NiJ9.{RFC_PAYLOAD}.d{}", &RFC_RSA[1..]),
            refused,
        ),
        (
            "EC with a bit changed",
            format!("eyJhbGciOiJFUzI1NiJ9.{RFC_PAYLOAD}.E{}", &RFC_EC[1..]),
            refused,
        ),
        (
            "RSA signature under a header it did not sign",
            rsa("rsa"),
            refused,
        ),
        ("EC key for an RSA token", rsa("ec"), refused),
        (
            "a key that nobody can use",
            rsa("odd"),
            "the token's key is not one of the issuer's",
        ),
    ];
    for (what, token, detail) in table {
        let answered = ask(&api, &token).await;
        assert_eq!(answered.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answered.json["detail"], detail, "{what}");
    }
    // A published secret and a secret of ours do not make an HS256 token good.
    for kid in [None, Some("shared"), Some("rsa")] {
        let mut hs = Header::new(Algorithm::HS256);
        hs.kid = kid.map(str::to_owned);
        let claims = json!({"sub": "ada", "exp": chrono::Utc::now().timestamp() + 60});
        let forged =
            jsonwebtoken::encode(&hs, &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
                .expect("a token");
        assert_eq!(
            ask(&api, &forged).await.status,
            StatusCode::UNAUTHORIZED,
            "{kid:?}"
        );
    }
}

#[tokio::test]
async fn keys_rotate_in_mid_traffic_without_a_failure() {
    let (old, new) = (Pair::new(1), Pair::new(2));
    let issuer = Issuer::new(json!({"keys": [old.published()]}));
    let api = issuer
        .api(|source| source.refetch_after = Duration::ZERO)
        .await;
    assert_eq!(ask(&api, &old.good_token()).await.status, StatusCode::OK);
    assert_eq!(
        ask(&api, &old.token(None)).await.status,
        StatusCode::OK,
        "one key needs no kid"
    );
    issuer.publish(json!({"keys": [old.published(), new.published()]}));
    for _ in 0..20 {
        assert_eq!(ask(&api, &new.good_token()).await.status, StatusCode::OK);
        assert_eq!(ask(&api, &old.good_token()).await.status, StatusCode::OK);
    }
    assert_eq!(
        ask(&api, &new.token(Some(&old.kid))).await.status,
        StatusCode::UNAUTHORIZED,
        "another's kid"
    );
    assert_eq!(
        ask(&api, &new.token(None)).await.status,
        StatusCode::UNAUTHORIZED,
        "two keys to choose from"
    );
}

#[tokio::test]
async fn a_removed_key_is_refused_once_the_keys_are_old() {
    let (old, new) = (Pair::new(1), Pair::new(2));
    let issuer = Issuer::new(json!({"keys": [old.published()]}));
    let eager = |source: &mut JwksSource| {
        (source.refetch_after, source.fresh_for) = (Duration::ZERO, Duration::from_millis(1));
    };
    let api = issuer.api(eager).await;
    assert_eq!(ask(&api, &old.good_token()).await.status, StatusCode::OK);
    issuer.publish(json!({"keys": [new.published()]}));
    eventually("the removed key is refused", async || {
        ask(&api, &old.good_token()).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(ask(&api, &new.good_token()).await.status, StatusCode::OK);
    // The issuer goes away: the keys that are known stay good, though old.
    issuer.publish(Value::Null);
    for _ in 0..20 {
        assert_eq!(ask(&api, &new.good_token()).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_flood_of_made_up_kids_costs_the_issuer_one_request() {
    let pair = Pair::new(1);
    let issuer = Issuer::new(json!({"keys": [pair.published()]}));
    let api = issuer.api(|_| {}).await;
    let flood = (0..200).map(|n| {
        let kid = [
            format!("kid-{n}"),
            "../../etc/passwd".to_owned(),
            "' or 1=1 --".to_owned(),
            "k".repeat(4000),
        ][n % 4]
            .clone();
        let token = pair.token(Some(&kid));
        let api = &api;
        async move { ask(api, &token).await.status }
    });
    let statuses = futures::future::join_all(flood).await;
    assert!(
        statuses
            .iter()
            .all(|status| *status == StatusCode::UNAUTHORIZED)
    );
    assert_eq!(issuer.fetches(), 1);
    assert_eq!(
        ask(&api, &pair.good_token()).await.status,
        StatusCode::OK,
        "and the good ones go on"
    );
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn without_any_keys_so_far_the_service_says_that_it_is_not_available() {
    let pair = Pair::new(1);
    let issuer = Issuer::new(Value::Null);
    let api = issuer
        .api(|source| source.refetch_after = Duration::ZERO)
        .await;
    let away = ask(&api, &pair.good_token()).await;
    assert_eq!(
        (away.status, away.problem()),
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    );
    assert!(!away.header("retry-after").is_empty());
    issuer.publish(json!({"keys": [pair.published()]}));
    assert_eq!(ask(&api, &pair.good_token()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn only_the_configured_algorithms_count() {
    let pair = Pair::new(1);
    let issuer = Issuer::new(json!({"keys": [pair.published()]}));
    let api = issuer
        .api(|source| source.algorithms = vec![JwksAlgorithm::Rs256])
        .await;
    assert_eq!(
        ask(&api, &pair.good_token()).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(issuer.fetches(), 0, "not even worth asking the issuer");
}
