//! Every setting of the crate in one struct, and the one place that reads the environment.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ureq::ProxyProtocol;

use crate::error::HubError;

/// Where models live and how they are fetched.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The model folder; made on the first pull.
    pub home: PathBuf,
    /// Base address of the Hugging Face hub or of a mirror of it.
    pub hf_endpoint: String,
    /// Sent to `hf_endpoint` alone, never to where it redirects.
    pub hf_token: Option<Token>,
    /// The Python that runs pip; `None` tries the usual names.
    pub python: Option<PathBuf>,
    /// Longest wait for name resolution and for a connection, each. Short, so that a machine
    /// without the hub learns it soon.
    pub connect_timeout: Duration,
    /// Longest wait for the head of an answer.
    pub response_timeout: Duration,
    /// Longest silence inside a body before the connection is given up and resumed.
    pub stall_timeout: Duration,
    /// Attempts in a row that may fail without getting further.
    pub max_attempts: u32,
    /// Wait before the second attempt; it doubles from there, up to 8 seconds.
    pub retry_delay: Duration,
    pub(crate) proxy: Option<ureq::Proxy>,
}

impl HubConfig {
    /// The default settings around a model folder; reads no environment.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        Self {
            home: home.into(),
            hf_endpoint: "https://huggingface.co".to_owned(),
            hf_token: None,
            python: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            max_attempts: 5,
            retry_delay: Duration::from_millis(500),
            proxy: None,
        }
    }

    /// The settings of this process: `MINERVA_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, and the proxy
    /// variables (`HTTPS_PROXY`, `ALL_PROXY`, `HTTP_PROXY`, `NO_PROXY`). An empty variable counts
    /// as unset.
    pub fn from_env() -> Result<Self, HubError> {
        let home = match var("MINERVA_HOME")? {
            Some(home) => PathBuf::from(home),
            None => data_folder()?.join("minerva"),
        };
        let mut config = Self::new(home);
        if let Some(endpoint) = var("HF_ENDPOINT")? {
            config.hf_endpoint = endpoint;
        }
        if let Some(token) = var("HF_TOKEN")? {
            config.hf_token = Some(Token::new(&token)?);
        }
        config.proxy = proxy()?;
        Ok(config)
    }
}

/// A secret for the hub; it is not shown by `Debug` and stands in no message.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes the token without the white space around it; refuses what cannot be in a header.
    pub fn new(token: &str) -> Result<Self, HubError> {
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(HubError::BadSetting {
                name: "HF_TOKEN",
                reason: "found characters that no token has, expected visible ASCII".to_owned(),
            });
        }
        Ok(Self(token.to_owned()))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn var(name: &'static str) -> Result<Option<String>, HubError> {
    match std::env::var(name) {
        Ok(value) if value.trim().is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(HubError::BadSetting {
            name,
            reason: "found bytes that are not UTF-8, expected text".to_owned(),
        }),
    }
}

#[cfg(windows)]
fn data_folder() -> Result<PathBuf, HubError> {
    var("LOCALAPPDATA")?.map(PathBuf::from).ok_or_else(no_home)
}

#[cfg(target_vendor = "apple")]
fn data_folder() -> Result<PathBuf, HubError> {
    let home = std::env::home_dir().ok_or_else(no_home)?;
    Ok(home.join("Library").join("Application Support"))
}

#[cfg(not(any(windows, target_vendor = "apple")))]
fn data_folder() -> Result<PathBuf, HubError> {
    // The XDG specification: a relative path there is to be ignored.
    if let Some(data) = var("XDG_DATA_HOME")?
        .map(PathBuf::from)
        .filter(|data| data.is_absolute())
    {
        return Ok(data);
    }
    let home = std::env::home_dir()
        .filter(|home| home.is_absolute())
        .ok_or_else(no_home)?;
    Ok(home.join(".local").join("share"))
}

fn no_home() -> HubError {
    HubError::BadSetting {
        name: "MINERVA_HOME",
        reason: "not set, and this user has no data folder to fall back on".to_owned(),
    }
}

fn proxy() -> Result<Option<ureq::Proxy>, HubError> {
    const NAMES: [&str; 6] = [
        "ALL_PROXY",
        "all_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
    ];
    let mut first = None;
    for name in NAMES {
        if var(name)?.is_some() {
            first = first.or(Some(name));
        }
    }
    let Some(name) = first else { return Ok(None) };
    match ureq::Proxy::try_from_env() {
        Some(proxy) if matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) => {
            Ok(Some(proxy))
        }
        Some(_) => Err(HubError::BadSetting {
            name,
            reason: "found a SOCKS proxy, expected an HTTP proxy".to_owned(),
        }),
        // The value may hold a password, so it is not shown.
        None => Err(HubError::BadSetting {
            name,
            reason: "found something else, expected http://host:port".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_checked_and_hidden() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.secret(), "hf_secret");
        let mut config = HubConfig::new("models");
        config.hf_token = Some(token);
        assert!(!format!("{config:?}").contains("secret"));
        for bad in ["", "  ", "a b", "a\r\nX: y", "é"] {
            let error = Token::new(bad).unwrap_err().to_string();
            assert!(error.contains("HF_TOKEN"), "{error}");
        }
    }
}
