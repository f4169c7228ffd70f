//! An API key: who it is for, what it may do, and how its secret is made and checked.
//!
//! A key is `mnv-<id>-<secret>`: twelve hexadecimal digits that name it and stand in lists and
//! logs, and 64 (256 bits) that prove it. The secret is shown once; what is kept is the SHA-256 of
//! the whole. A slow hash would guard nothing here, since nobody guesses 256 random bits.

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::{ObjectBuilder, RefOr, Type};

use super::bucket::MAX_LIMIT;
use super::store::Usage;
use crate::body::FromObject;
use crate::random;

/// How keys begin, so that they are known for what they are where they leak.
const PREFIX: &str = "mnv-";
/// Random bytes of an id.
const ID_BYTES: usize = 6;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Bytes of a hash.
const SHA256_BYTES: usize = 32;
/// Longest name of a key.
const MAX_NAME_LEN: usize = 100;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To run models.
    Infer,
    /// To read the figures.
    Metrics,
    /// To make, list and revoke keys.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 3] = [Scope::Infer, Scope::Metrics, Scope::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Infer => "infer",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }
}

/// How much a key may use; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyLimits {
    /// Requests in a minute.
    #[schema(schema_with = limit_schema)]
    pub requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers in a minute.
    #[schema(schema_with = limit_schema)]
    pub tokens_per_minute: Option<u64>,
    /// Tokens of prompts and answers in a day of UTC.
    #[schema(schema_with = limit_schema)]
    pub tokens_per_day: Option<u64>,
    /// Requests at the same time.
    #[schema(schema_with = limit_schema)]
    pub concurrency: Option<u64>,
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Who or what it is for.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// What it may be used for.
    #[serde(default = "infer_alone")]
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// The models it may run; `None` is all.
    #[serde(default)]
    #[schema(min_items = 1)]
    pub models: Option<Vec<String>>,
    /// How much it may use.
    #[serde(default, deserialize_with = "limits_of_object")]
    pub limits: KeyLimits,
}

fn limit_schema() -> RefOr<Schema> {
    let object = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
        .minimum(Some(1))
        .maximum(Some(MAX_LIMIT));
    RefOr::T(object.into())
}

fn limits_of_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyLimits, D::Error> {
    FromObject::deserialize(deserializer).map(|FromObject(limits)| limits)
}

fn infer_alone() -> Vec<Scope> {
    vec![Scope::Infer]
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The public part of the key.
    pub id: String,
    /// Who or what it is for.
    pub name: String,
    /// The SHA-256 of the key, in hexadecimal digits.
    pub(crate) sha256: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// The models it may run; `None` is all.
    pub models: Option<Vec<String>>,
    /// How much it may use.
    pub limits: KeyLimits,
    /// When it was revoked, in seconds since 1970.
    pub revoked: Option<u64>,
}

impl NewKey {
    /// A record and the key itself, which is nowhere else.
    pub(crate) fn make(self, now_seconds: u64) -> (KeyRecord, String) {
        let id = random::hex(&random::bytes::<ID_BYTES>());
        let secret = random::hex(&random::bytes::<SECRET_BYTES>());
        let key = format!("{PREFIX}{id}-{secret}");
        let record = KeyRecord {
            sha256: random::hex(&Sha256::digest(&key)),
            id,
            name: self.name,
            created: now_seconds,
            scopes: self.scopes,
            models: self.models,
            limits: self.limits,
            revoked: None,
        };
        (record, key)
    }

    /// Says which field cannot be used and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        check_fields(
            &self.name,
            &self.scopes,
            self.models.as_deref(),
            &self.limits,
        )
    }
}

fn check_fields(
    name: &str,
    scopes: &[Scope],
    models: Option<&[String]>,
    limits: &KeyLimits,
) -> Result<(), (&'static str, String)> {
    let n_chars = name.chars().count();
    if !(1..=MAX_NAME_LEN).contains(&n_chars) || name.chars().any(char::is_control) {
        let wanted = format!(
            "name: {n_chars} characters, expected 1 to {MAX_NAME_LEN} and no control characters"
        );
        return Err(("name", wanted));
    }
    if scopes.is_empty() {
        let all = Scope::ALL.map(Scope::name).join(", ");
        return Err(("scopes", format!("scopes: none, expected some of {all}")));
    }
    if models.is_some_and(<[String]>::is_empty) {
        return Err(("models", "models: none, expected at least one".to_owned()));
    }
    for (field, limit) in [
        ("requests_per_minute", limits.requests_per_minute),
        ("tokens_per_minute", limits.tokens_per_minute),
        ("tokens_per_day", limits.tokens_per_day),
        ("concurrency", limits.concurrency),
    ] {
        if let Some(n) = limit.filter(|n| !(1..=MAX_LIMIT).contains(n)) {
            let wanted = format!("{field}: {n}, expected 1 to {MAX_LIMIT}");
            return Err(("limits", wanted));
        }
    }
    Ok(())
}

impl KeyRecord {
    /// What is wrong with a record that this program did not write itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_hex = |text: &str, n_bytes| text.len() == 2 * n_bytes && is_hex(text);
        if !is_hex(&self.id, ID_BYTES) {
            return Err(format!(
                "id: {:?}, expected {} hexadecimal digits",
                self.id,
                2 * ID_BYTES
            ));
        }
        if !is_hex(&self.sha256, SHA256_BYTES) {
            return Err(format!(
                "sha256: {:?}, expected {} hexadecimal digits",
                self.sha256,
                2 * SHA256_BYTES
            ));
        }
        check_fields(
            &self.name,
            &self.scopes,
            self.models.as_deref(),
            &self.limits,
        )
        .map_err(|(_, message)| message)
    }

    /// Whether this is the key, in a time that does not tell how much of it is right.
    pub(crate) fn is_key(&self, key: &str) -> bool {
        let found = random::hex(&Sha256::digest(key));
        found.as_bytes().ct_eq(self.sha256.as_bytes()).into()
    }

    /// Whether the key may be used for this.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// The id as a number, not zero: who a request is from, for the engine's queue.
    pub(crate) fn tenant(&self) -> u64 {
        // The top bit keeps it apart from zero, which is nobody.
        u64::from_str_radix(&self.id, 16).unwrap_or(0) | 1 << 63
    }
}

/// A key and what it used, for people and programs; the hash is nobody's business.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Key)]
pub struct KeyObject {
    /// `api_key`.
    pub object: &'static str,
    /// The public part of the key.
    pub id: String,
    /// Who or what it is for.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it was revoked.
    pub revoked: Option<u64>,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// The models it may run; null is all.
    pub models: Option<Vec<String>>,
    /// How much it may use.
    pub limits: KeyLimits,
    /// What it used.
    pub usage: KeyUsage,
    /// The key itself, where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What a key used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeyUsage {
    /// The day that `tokens_today` is of, in days since 1970.
    pub day: u64,
    /// Tokens of prompts and answers on that day.
    pub tokens_today: u64,
    /// Requests, ever.
    pub requests: u64,
    /// Tokens of prompts, ever.
    pub prompt_tokens: u64,
    /// Tokens of answers, ever.
    pub completion_tokens: u64,
    /// The last request, in seconds since 1970.
    pub last_used: Option<u64>,
}

/// What there is to show of a key.
pub fn key_object(key: &KeyRecord, usage: &Usage) -> KeyObject {
    KeyObject {
        object: "api_key",
        id: key.id.clone(),
        name: key.name.clone(),
        created: key.created,
        revoked: key.revoked,
        scopes: key.scopes.clone(),
        models: key.models.clone(),
        limits: key.limits.clone(),
        usage: KeyUsage {
            day: usage.day,
            tokens_today: usage.tokens_today,
            requests: usage.requests,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            last_used: (usage.last_used > 0).then_some(usage.last_used),
        },
        key: None,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id in what is said to be a key; `None` if it cannot be one.
pub(crate) fn id_of(key: &str) -> Option<&str> {
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('-')?;
    (id.len() == 2 * ID_BYTES && secret.len() == 2 * SECRET_BYTES && is_hex(id) && is_hex(secret))
        .then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> NewKey {
        NewKey {
            name: name.to_owned(),
            scopes: infer_alone(),
            models: None,
            limits: KeyLimits::default(),
        }
    }

    #[test]
    fn a_key_proves_itself_and_no_other() {
        let (record, key) = named("a").make(1);
        let (other, _) = named("b").make(1);
        assert_eq!(id_of(&key), Some(record.id.as_str()));
        assert!(record.is_key(&key) && !other.is_key(&key));
        assert!(!record.is_key(&key[..key.len() - 1]));
        assert!(!serde_json::to_string(&record).unwrap().contains(&key[17..]));
        assert_ne!(record.tenant(), other.tenant());
    }

    #[test]
    fn what_is_no_key_has_no_id() {
        let (_, key) = named("a").make(1);
        for bad in [
            "",
            "mnv-",
            "sk-abc",
            "mnv-é-é",
            &key[1..],
            &key[..80],
            &format!("{key}0"),
        ] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_new_key_is_checked() {
        let field = |new: NewKey| new.check().unwrap_err().0;
        assert_eq!(field(named("")), "name");
        assert_eq!(field(named("a\nb")), "name");
        assert_eq!(
            field(NewKey {
                scopes: Vec::new(),
                ..named("a")
            }),
            "scopes"
        );
        assert_eq!(
            field(NewKey {
                models: Some(Vec::new()),
                ..named("a")
            }),
            "models"
        );
        let limits = KeyLimits {
            concurrency: Some(0),
            ..KeyLimits::default()
        };
        assert_eq!(
            field(NewKey {
                limits,
                ..named("a")
            }),
            "limits"
        );
    }
}
