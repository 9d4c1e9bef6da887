//! The issuer's public keys, fetched by a function that is given to us: the API opens no connections itself.
//!
//! Keys are kept for an hour and then fetched again behind the requests; a token with an unknown `kid` has them fetched
//! at once, but at most once a minute and never twice at the same time, so that made-up kids cost the issuer nothing.
//! While the issuer does not answer, the old keys stay. `kid` is looked up in a map and used for nothing else; where a
//! token says that its key is to be found (`jku`, `x5u`, `jwk`) is not read.

use std::{collections::HashMap, error::Error, fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, RwLock},
    time::{Instant, timeout},
};
use tracing::{info, warn};

/// Longest fetch.
const FETCH_LIMIT: Duration = Duration::from_secs(5);

/// Brings the JWKS document.
pub type Fetch =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Value, Box<dyn Error + Send + Sync>>> + Send + Sync>;

/// Where the keys come from and how long they stay.
#[derive(Clone)]
pub struct JwksSource {
    /// Brings the document.
    pub fetch: Fetch,
    /// Which signatures count.
    pub algorithms: Vec<JwksAlgorithm>,
    /// How long keys are good without looking again.
    pub fresh_for: Duration,
    /// Least time between two fetches.
    pub refetch_after: Duration,
}

/// A signature that a published key can check. Shared secrets are not among them: a public key must never pass for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwksAlgorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl JwksSource {
    /// All algorithms, keys for an hour, a fetch a minute at most.
    pub fn new(fetch: Fetch) -> Self {
        Self {
            fetch,
            algorithms: vec![
                JwksAlgorithm::Rs256,
                JwksAlgorithm::Es256,
                JwksAlgorithm::EdDsa,
            ],
            fresh_for: Duration::from_hours(1),
            refetch_after: Duration::from_mins(1),
        }
    }
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksSource")
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl JwksAlgorithm {
    fn of(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::RS256 => Some(Self::Rs256),
            Algorithm::ES256 => Some(Self::Es256),
            Algorithm::EdDSA => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// What a published key can check, if anything.
    fn of_key(key: &Jwk) -> Option<Self> {
        if !matches!(
            key.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        ) {
            return None;
        }
        let (able, named) = match &key.algorithm {
            AlgorithmParameters::RSA(_) => (Self::Rs256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                (Self::Es256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(curve) if curve.curve == EllipticCurve::Ed25519 => {
                (Self::EdDsa, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        key.common
            .key_algorithm
            .is_none_or(|algorithm| algorithm == named)
            .then_some(able)
    }
}

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// The issuer has no such key.
    Unknown,
    /// The token's algorithm does not count, or is not the key's.
    WrongAlgorithm,
    /// No keys could be had so far.
    Unavailable,
}

/// The keys, kept.
#[derive(Clone, Debug)]
pub(crate) struct Jwks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: JwksSource,
    kept: RwLock<Kept>,
    /// Held while fetching; knows when that was tried last.
    tried_at: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By kid; keys without one under the empty kid.
    keys: HashMap<String, Vec<(JwksAlgorithm, Arc<DecodingKey>)>>,
    fetched_at: Option<Instant>,
}

impl Jwks {
    pub(crate) fn new(source: JwksSource) -> Self {
        Self(Arc::new(Inner {
            source,
            kept: RwLock::default(),
            tried_at: Mutex::default(),
        }))
    }

    /// The key for a token's header.
    pub(crate) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<DecodingKey>, NoKey> {
        let algorithm = JwksAlgorithm::of(algorithm)
            .filter(|algorithm| self.0.source.algorithms.contains(algorithm))
            .ok_or(NoKey::WrongAlgorithm)?;
        let (found, stale) = self.look(kid, algorithm).await;
        if stale && found.is_ok() {
            // The key is good meanwhile; nobody waits for the issuer.
            let again = self.clone();
            tokio::spawn(async move { again.fetch().await });
        }
        match found {
            Err(NoKey::Unknown | NoKey::Unavailable) => {
                self.fetch().await;
                self.look(kid, algorithm).await.0
            }
            settled => settled,
        }
    }

    /// Looks into what is kept; also whether that is old.
    async fn look(
        &self,
        kid: Option<&str>,
        algorithm: JwksAlgorithm,
    ) -> (Result<Arc<DecodingKey>, NoKey>, bool) {
        let kept = self.0.kept.read().await;
        let stale = kept
            .fetched_at
            .is_none_or(|at| at.elapsed() >= self.0.source.fresh_for);
        (kept.find(kid, algorithm), stale)
    }

    /// Fetches, unless that was tried a moment ago. Those who come meanwhile wait for the same fetch.
    async fn fetch(&self) {
        let mut tried_at = self.0.tried_at.lock().await;
        if tried_at.is_some_and(|at| at.elapsed() < self.0.source.refetch_after) {
            return;
        }
        *tried_at = Some(Instant::now());
        let document = match timeout(FETCH_LIMIT, (self.0.source.fetch)()).await {
            Ok(Ok(document)) => document,
            Ok(Err(error)) => {
                return warn!(
                    error,
                    "the issuer's keys could not be fetched; the old ones stay"
                );
            }
            Err(_) => {
                return warn!(
                    "the issuer's keys did not come within {FETCH_LIMIT:?}; the old ones stay"
                );
            }
        };
        let keys = read(&document);
        if keys.is_empty() {
            return warn!("the issuer published no key that can be used; the old ones stay");
        }
        info!(kids = keys.len(), "the issuer's keys were fetched");
        *self.0.kept.write().await = Kept {
            keys,
            fetched_at: Some(Instant::now()),
        };
    }
}

impl Kept {
    fn find(&self, kid: Option<&str>, algorithm: JwksAlgorithm) -> Result<Arc<DecodingKey>, NoKey> {
        if self.fetched_at.is_none() {
            return Err(NoKey::Unavailable);
        }
        let named = match kid {
            Some(kid) => self
                .keys
                .get(kid)
                .ok_or(NoKey::Unknown)?
                .iter()
                .collect::<Vec<_>>(),
            None => self.keys.values().flatten().collect(),
        };
        let mut able = named.into_iter().filter(|(able, _)| *able == algorithm);
        match (able.next(), able.next()) {
            (Some((_, key)), None) => Ok(Arc::clone(key)),
            // Without a kid there must be nothing to choose from.
            (Some(_), Some(_)) => Err(NoKey::Unknown),
            (None, _) => Err(NoKey::WrongAlgorithm),
        }
    }
}

/// Takes the usable keys out of a document; the others are passed over, as RFC 7517 asks.
fn read(document: &Value) -> HashMap<String, Vec<(JwksAlgorithm, Arc<DecodingKey>)>> {
    let mut keys: HashMap<String, Vec<_>> = HashMap::new();
    for key in document["keys"].as_array().into_iter().flatten() {
        let Ok(key) = serde_json::from_value::<Jwk>(key.clone()) else {
            continue;
        };
        let (Some(able), Ok(decoding)) = (JwksAlgorithm::of_key(&key), DecodingKey::from_jwk(&key))
        else {
            continue;
        };
        keys.entry(key.common.key_id.unwrap_or_default())
            .or_default()
            .push((able, Arc::new(decoding)));
    }
    keys
}
