//! Names that become paths and addresses, checked so that neither can leave its place.

use std::path::{Component, Path, PathBuf};

use crate::error::HubError;

/// `hf:owner/repo/file.gguf`, with folders inside the repository and `@revision` if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HfFile {
    /// `owner/repo`.
    repo: String,
    revision: Option<String>,
    /// Folders of the repository with a slash at the end, or nothing.
    folder: String,
    file: String,
}

impl HfFile {
    pub(crate) fn parse(name: &str) -> Result<Self, HubError> {
        let bad = |reason: &str| HubError::BadName {
            name: name.to_owned(),
            reason: format!("{reason}, expected hf:owner/repo/file.gguf or …file.gguf@revision"),
        };
        let rest = name
            .strip_prefix("hf:")
            .ok_or_else(|| bad("no hf: in front"))?;
        let (path, revision) = match rest.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (rest, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 3 {
            return Err(bad("found fewer than three parts"));
        }
        // Real ones have at most a folder or two; the bound keeps paths short.
        if parts.len() > 8 {
            return Err(bad("found more than eight parts"));
        }
        for part in parts.iter().copied().chain(revision) {
            if let Some(reason) = fault_of_component(part) {
                return Err(bad(&format!("part {part:?} {reason}")));
            }
        }
        if !path.ends_with(".gguf") {
            return Err(bad("the file does not end in .gguf"));
        }
        Ok(Self {
            repo: format!("{}/{}", parts[0], parts[1]),
            revision: revision.map(str::to_owned),
            folder: parts[2..parts.len() - 1]
                .iter()
                .map(|part| format!("{part}/"))
                .collect(),
            file: parts[parts.len() - 1].to_owned(),
        })
    }

    /// The address of the file at a hub. The checked alphabet needs no escaping.
    pub(crate) fn url(&self, endpoint: &str) -> String {
        let revision = self.revision.as_deref().unwrap_or("main");
        format!(
            "{}/{}/resolve/{revision}/{}{}",
            endpoint.trim_end_matches('/'),
            self.repo,
            self.folder,
            self.file
        )
    }

    /// Where the file lies in the model folder.
    pub(crate) fn local(&self) -> LocalName {
        let revision = self
            .revision
            .as_ref()
            .map(|r| format!("@{r}"))
            .unwrap_or_default();
        LocalName(format!(
            "{}{revision}/{}{}",
            self.repo, self.folder, self.file
        ))
    }

    /// The files of a split model in order, or the file alone.
    pub(crate) fn files(&self) -> Vec<HfFile> {
        let names = split_names(&self.file).unwrap_or_else(|| vec![self.file.clone()]);
        names
            .into_iter()
            .map(|file| HfFile {
                file,
                ..self.clone()
            })
            .collect()
    }
}

impl std::fmt::Display for HfFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hf:{}/{}{}", self.repo, self.folder, self.file)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

/// A file of the model folder: a relative path with slashes that stays inside and ends in
/// `.gguf`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LocalName(String);

impl LocalName {
    /// Takes a name as typed or as read from the folder, with or without `.gguf`. Files that the
    /// user has put there may have any name; only ways out of the folder and hidden files are
    /// refused.
    pub(crate) fn parse(name: &str) -> Result<Self, HubError> {
        let bad = |reason: &str| HubError::BadName {
            name: name.to_owned(),
            reason: format!("{reason}, expected a name inside the model folder"),
        };
        let is_plain = !name.is_empty()
            && !name.contains(['\\', '\0'])
            && Path::new(name)
                .components()
                .all(|c| matches!(c, Component::Normal(_)));
        if !is_plain {
            return Err(bad("found a way out of the folder"));
        }
        if name
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(bad("found an empty or hidden part"));
        }
        let suffix = if name.ends_with(".gguf") { "" } else { ".gguf" };
        Ok(Self(format!("{name}{suffix}")))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below a folder, in the system's own separators.
    pub(crate) fn below(&self, folder: &Path) -> PathBuf {
        self.0
            .split('/')
            .fold(folder.to_owned(), |path, part| path.join(part))
    }

    /// What to type to get this file: `hf:…` where it came that way, else the name without its
    /// ending.
    pub(crate) fn to_argument(&self) -> String {
        let parts: Vec<&str> = self.0.split('/').collect();
        if parts.len() < 3 {
            return self.0.trim_end_matches(".gguf").to_owned();
        }
        let (repo, revision) = match parts[1].split_once('@') {
            Some((repo, revision)) => (repo, format!("@{revision}")),
            None => (parts[1], String::new()),
        };
        let name = format!("hf:{}/{repo}/{}{revision}", parts[0], parts[2..].join("/"));
        // A folder of the user's own making may not be sayable in that form.
        if HfFile::parse(&name).is_ok() {
            name
        } else {
            self.0.clone()
        }
    }

    /// The files of a split model in order, or the file alone.
    pub(crate) fn files(&self) -> Vec<LocalName> {
        let (folder, file) = match self.0.rsplit_once('/') {
            Some((folder, file)) => (format!("{folder}/"), file),
            None => (String::new(), self.0.as_str()),
        };
        match split_names(file) {
            Some(names) => names
                .iter()
                .map(|name| Self(format!("{folder}{name}")))
                .collect(),
            None => vec![self.clone()],
        }
    }
}

/// Why a part of a name is refused. The alphabet is what hubs use, less what any file system
/// or address treats specially.
fn fault_of_component(part: &str) -> Option<&'static str> {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    if part.is_empty() || part.len() > 128 {
        return Some("is not 1 to 128 characters long");
    }
    if !part
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    {
        return Some("has a character other than letters, digits, '.', '_', '-' and '+'");
    }
    if part.starts_with(['.', '-']) || part.ends_with('.') {
        return Some("begins with '.' or '-', or ends in '.'");
    }
    let stem = part.split('.').next().unwrap_or(part).to_ascii_lowercase();
    let is_port = stem.len() == 4
        && (stem.starts_with("com") || stem.starts_with("lpt"))
        && stem.ends_with(|c: char| c.is_ascii_digit());
    if is_port || DEVICES.contains(&stem.as_str()) {
        return Some("is a device on Windows");
    }
    None
}

/// The names of all parts, if this is the name of one part of a split model:
/// `stem-00002-of-00003.gguf`.
fn split_names(file: &str) -> Option<Vec<String>> {
    // More parts than any model has; the bound keeps a mistyped name from becoming a long loop.
    const MAX_PARTS: usize = 999;
    let number = |text: &str| {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<usize>().ok())
            .flatten()
    };
    let stem = file.strip_suffix(".gguf")?;
    let (stem, n_parts) = stem.rsplit_once("-of-")?;
    let (stem, part) = stem.rsplit_once('-')?;
    let (part, n_parts) = (number(part)?, number(n_parts)?);
    if !(1..=MAX_PARTS).contains(&n_parts) || !(1..=n_parts).contains(&part) {
        return None;
    }
    Some(
        (1..=n_parts)
            .map(|part| format!("{stem}-{part:05}-of-{n_parts:05}.gguf"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_files_become_addresses_and_paths() {
        for (name, url, local) in [
            (
                "hf:owner/repo/file.gguf",
                "https://h/owner/repo/resolve/main/file.gguf",
                "owner/repo/file.gguf",
            ),
            (
                "hf:o/r/dir/f-Q4_K_M.gguf@refs.1",
                "https://h/o/r/resolve/refs.1/dir/f-Q4_K_M.gguf",
                "o/r@refs.1/dir/f-Q4_K_M.gguf",
            ),
        ] {
            let file = HfFile::parse(name).unwrap();
            assert_eq!(file.url("https://h/"), url);
            assert_eq!(file.local().as_str(), local);
            assert_eq!(file.local().to_argument(), name);
            assert_eq!(file.to_string(), name);
        }
    }

    #[test]
    fn hostile_hub_names_are_refused() {
        for name in [
            "hf:",
            "hf:a/b",
            "hf:a/b/c",
            "hf:a/../c.gguf",
            "hf:../b/c.gguf",
            "hf:/a/b/c.gguf",
            "hf:a//c.gguf",
            "hf:a/b/c.gguf@",
            "hf:a/b/c.gguf@..",
            "hf:a/b/c.gguf@x/y",
            "hf:a/b/c.gguf?x.gguf",
            "hf:a/b/c%2f.gguf",
            "hf:a\\b/c/d.gguf",
            "hf:C:/b/c.gguf",
            "hf:a/nul/c.gguf",
            "hf:a/b/com1.gguf",
            "hf:a/b/ü.gguf",
            "hf:a/.hub/c.gguf",
            "hf:a/b/c/d/e/f/g/h/i.gguf",
            "hf:a/b/\r\n.gguf",
        ] {
            let error = HfFile::parse(name).unwrap_err().to_string();
            assert!(
                error.contains("expected hf:owner/repo/file.gguf"),
                "{name}: {error}"
            );
        }
        assert!(HfFile::parse(&format!("hf:a/b/{}.gguf", "c".repeat(200))).is_err());
    }

    #[test]
    fn local_names_stay_inside() {
        assert_eq!(
            LocalName::parse("my model").unwrap().as_str(),
            "my model.gguf"
        );
        assert_eq!(LocalName::parse("a/b.gguf").unwrap().as_str(), "a/b.gguf");
        for name in [
            "", ".", "..", "../a", "/a", "a/../b", "a//b", "./a", "a/", ".hub/x", "a\\b",
        ] {
            assert!(LocalName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn any_part_of_a_split_model_names_them_all() {
        let file = HfFile::parse("hf:o/r/d/m-00002-of-00003.gguf").unwrap();
        let names: Vec<String> = file.files().iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "hf:o/r/d/m-00001-of-00003.gguf",
                "hf:o/r/d/m-00002-of-00003.gguf",
                "hf:o/r/d/m-00003-of-00003.gguf"
            ]
        );
        assert_eq!(
            file.local().files()[0].as_str(),
            "o/r/d/m-00001-of-00003.gguf"
        );
        for alone in [
            "m-00004-of-00003",
            "m-00000-of-00003",
            "m-1-of-3",
            "m-00001-of-99999",
        ] {
            let file = HfFile::parse(&format!("hf:o/r/{alone}.gguf")).unwrap();
            assert_eq!(file.files().len(), 1, "{alone}");
        }
    }

    #[test]
    fn no_text_panics_or_leaves_the_folder() {
        #[expect(
            clippy::needless_pass_by_value,
            reason = "quickcheck hands over owned values"
        )]
        fn property(text: String) -> bool {
            let home = Path::new("/home");
            let hub = HfFile::parse(&format!("hf:{text}")).map(|file| file.local());
            [hub, LocalName::parse(&text)]
                .into_iter()
                .flatten()
                .all(|name| {
                    let path = name.below(home);
                    path.starts_with(home) && !path.components().any(|c| c == Component::ParentDir)
                })
        }
        quickcheck::quickcheck(property as fn(String) -> bool);
    }
}
