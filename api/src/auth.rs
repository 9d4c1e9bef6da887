//! From a bearer token to a [`UserScope`]: the only place of this crate that makes one.
//!
//! The algorithm is fixed by the configuration and never by the token. A token counts when its signature and every
//! claim hold (`claims`); then `(iss, sub)` is mapped to a user, who comes into being at first sight, and is
//! remembered here. Neither text is ever part of a key.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, Method, header, request},
    middleware::Next,
    response::Response,
};
use chrono::{DateTime, Utc};
use engine::{
    Store, UserScope,
    id::{SessionId, UserId},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use crate::{
    App,
    claims::{self, Identity, Policy},
    jwks::{Jwks, NoKey},
    problem::{Code, Problem},
};

pub use crate::jwks::{Fetch, JwksAlgorithm, JwksSource};
pub use secrecy::SecretString;

/// Shortest shared secret: as long as the hash it keys.
const SECRET_BYTES: usize = 32;
/// Longest token that is looked at.
const TOKEN_BYTES: usize = 16 * 1024;
/// How many people are remembered, twice.
const REMEMBERED: usize = 10_000;

/// Whose tokens count.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// How signatures are checked.
    pub keys: AuthKeys,
    /// The `iss` that a token must have; none: any, or none.
    pub issuer: Option<String>,
    /// The `aud` that a token must name; none: it must not have one.
    pub audience: Option<String>,
}

/// How signatures are checked.
#[derive(Debug, Clone)]
pub enum AuthKeys {
    /// HS256 with a secret of at least 32 bytes.
    Hs256(SecretString),
    /// The issuer's published keys.
    Jwks(JwksSource),
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthConfigError {
    /// Too short to keep anybody out.
    #[error("the JWT secret has {0} bytes; it needs at least 32")]
    ShortSecret(usize),
    /// Nothing would ever be let in.
    #[error("no algorithm is allowed for the issuer's keys")]
    NoAlgorithm,
    /// A dev token that would not be let in.
    #[error("the token could not be made: {0}")]
    Token(&'static str),
}

impl AuthConfig {
    /// HS256 tokens of this installation, with any issuer.
    pub fn hs256(secret: SecretString) -> Self {
        Self {
            keys: AuthKeys::Hs256(secret),
            issuer: None,
            audience: None,
        }
    }

    /// Tokens signed with published keys.
    pub fn jwks(source: JwksSource) -> Self {
        Self {
            keys: AuthKeys::Jwks(source),
            issuer: None,
            audience: None,
        }
    }

    /// Whether it can be used.
    pub fn check(&self) -> Result<(), AuthConfigError> {
        match &self.keys {
            AuthKeys::Hs256(secret) => long_enough(secret),
            AuthKeys::Jwks(source) if source.algorithms.is_empty() => {
                Err(AuthConfigError::NoAlgorithm)
            }
            AuthKeys::Jwks(_) => Ok(()),
        }
    }
}

fn long_enough(secret: &SecretString) -> Result<(), AuthConfigError> {
    let bytes = secret.expose_secret().len();
    if bytes < SECRET_BYTES {
        Err(AuthConfigError::ShortSecret(bytes))
    } else {
        Ok(())
    }
}

/// An HS256 token for `codelab token` and for tests.
pub fn dev_token(
    secret: &SecretString,
    subject: &str,
    ttl: Duration,
    issuer: Option<&str>,
    audience: Option<&str>,
) -> Result<String, AuthConfigError> {
    long_enough(secret)?;
    let mut claims = Map::from_iter([
        ("sub".to_owned(), json!(subject)),
        ("iat".to_owned(), json!(now())),
        ("exp".to_owned(), json!(now().saturating_add(ttl.as_secs()))),
    ]);
    claims.extend(issuer.map(|issuer| ("iss".to_owned(), json!(issuer))));
    claims.extend(audience.map(|audience| ("aud".to_owned(), json!(audience))));
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .map_err(|_| AuthConfigError::Token("signing failed"))
}

/// Who asks. A handler that has one acts for a verified person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// What they may touch.
    pub(crate) scope: UserScope,
    /// When their token ends.
    pub(crate) expires_at: DateTime<Utc>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, _: &App) -> Result<Self, Problem> {
        // Absent only where a route stands outside the layer: then it is refused, not served.
        parts
            .extensions
            .get()
            .copied()
            .ok_or_else(|| Problem::unauthorized("this route needs a bearer token", false))
    }
}

/// Somebody who is not in any database.
#[cfg(test)]
pub(crate) fn anybody() -> UserScope {
    UserScope::vouched(UserId::new())
}

/// The layer around everything under `/my/`.
pub(crate) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = match ticket(&request) {
        Some(Pass { ticket, session }) => app.auth.ticket_holder(ticket, session).await?,
        None => app.auth.caller(request.headers()).await?,
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    // What belongs to one person stays out of every cache between.
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Checks tokens and knows their people.
#[derive(Debug)]
pub(crate) struct Auth {
    keys: Keys,
    policy: Policy,
    store: Store,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
enum Keys {
    Secret(Arc<DecodingKey>),
    Published(Jwks),
}

impl Auth {
    pub(crate) fn new(config: &AuthConfig, store: Store) -> Result<Self, AuthConfigError> {
        config.check()?;
        let keys = match &config.keys {
            AuthKeys::Hs256(secret) => Keys::Secret(Arc::new(DecodingKey::from_secret(
                secret.expose_secret().as_bytes(),
            ))),
            AuthKeys::Jwks(source) => Keys::Published(Jwks::new(source.clone())),
        };
        let policy = Policy {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        };
        Ok(Self {
            keys,
            policy,
            store,
            seen: Mutex::default(),
        })
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let claims = self.verified(bearer(headers)?).await?;
        let identity = claims::check(&claims, &self.policy, now())
            .map_err(|refusal| Problem::unauthorized(refusal.to_string(), true))?;
        let expires_at = i64::try_from(identity.expires_at)
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let user = self.user(identity).await?;
        Ok(Caller {
            scope: UserScope::vouched(user),
            expires_at: expires_at.unwrap_or_default(),
        })
    }

    /// Whoever holds a ticket for this stream; it is used up.
    async fn ticket_holder(
        &self,
        ticket: &str,
        session: Option<SessionId>,
    ) -> Result<Caller, Problem> {
        let redeemed = self.store.redeem_ticket(ticket).await?;
        let redeemed = redeemed.filter(|redeemed| redeemed.session_id == session);
        let redeemed = redeemed.ok_or_else(|| {
            let why = "the ticket was used, is too old, or is for another stream; buy a new one";
            Problem::unauthorized(why, true)
        })?;
        Ok(Caller {
            scope: UserScope::vouched(redeemed.user_id),
            expires_at: redeemed.token_expires_at,
        })
    }

    /// The claims of a token whose signature holds.
    async fn verified(&self, token: &str) -> Result<Map<String, Value>, Problem> {
        let refused = |why: &str| Problem::unauthorized(why, true);
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| refused("the token is not a signed JWT"))?;
        if header.crit.is_some() {
            return Err(refused(
                "the token asks for extensions that are not known here",
            ));
        }
        let (key, algorithm) = match &self.keys {
            Keys::Secret(key) => (Arc::clone(key), Algorithm::HS256),
            Keys::Published(jwks) => {
                let found = jwks.key(header.kid.as_deref(), header.alg).await;
                (found.map_err(Problem::from)?, header.alg)
            }
        };
        // The claims are checked by us.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let token = jsonwebtoken::decode(token, &key, &validation);
        token
            .map(|token| token.claims)
            .map_err(|_| refused("the token's signature or algorithm does not hold"))
    }

    async fn user(&self, identity: Identity) -> Result<UserId, Problem> {
        let name = (identity.issuer, identity.subject);
        let known = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name);
        if let Some(user) = known {
            return Ok(user);
        }
        let user = self
            .store
            .user_at_sight(&name.0, &name.1, identity.email.as_deref())
            .await?;
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, user);
        Ok(user)
    }
}

impl From<NoKey> for Problem {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => {
                Self::unauthorized("the token's key is not one of the issuer's", true)
            }
            NoKey::WrongAlgorithm => {
                Self::unauthorized("the token's signature or algorithm does not hold", true)
            }
            NoKey::Unavailable => Self::new(
                Code::Unavailable,
                "the issuer's keys cannot be had at the moment; try again",
            )
            .retry_after(5),
        }
    }
}

/// A ticket, and the stream that it was shown at.
struct Pass<'a> {
    ticket: &'a str,
    session: Option<SessionId>,
}

/// The ticket of a request for a stream, which counts where no token came.
fn ticket(request: &Request) -> Option<Pass<'_>> {
    if request.method() != Method::GET || request.headers().contains_key(header::AUTHORIZATION) {
        return None;
    }
    let path = request.uri().path();
    let session = match path.strip_prefix("/chat/") {
        None if path == "/events/" => None,
        None => return None,
        Some(rest) => Some(rest.strip_suffix("/events/")?.parse().ok()?),
    };
    let mut parameters = request.uri().query()?.split('&');
    let ticket = parameters.find_map(|pair| pair.strip_prefix("ticket="))?;
    Some(Pass { ticket, session })
}

/// The token of the one `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || Problem::unauthorized("send the header Authorization: Bearer <token>", false);
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(missing());
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let token = token.trim_matches(' ');
    if token.len() > TOKEN_BYTES {
        return Err(Problem::unauthorized("the token is too long", true));
    }
    Ok(token)
}

fn now() -> u64 {
    u64::try_from(Utc::now().timestamp()).unwrap_or(0)
}

/// People seen lately. Two generations: when one is full it becomes the old one, and the old one is forgotten.
#[derive(Debug, Default)]
struct Seen {
    young: HashMap<(String, String), UserId>,
    old: HashMap<(String, String), UserId>,
}

impl Seen {
    fn get(&mut self, name: &(String, String)) -> Option<UserId> {
        if let Some(user) = self.young.get(name) {
            return Some(*user);
        }
        let (name, user) = self.old.remove_entry(name)?;
        self.insert(name, user);
        Some(user)
    }

    fn insert(&mut self, name: (String, String), user: UserId) {
        if self.young.len() >= REMEMBERED {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(name, user);
    }
}
