//! Finding, listing, checking and removing.

use std::ops::ControlFlow;

use minerva_hub::{Found, HubError, find, list, remove, verify};

use crate::server::{Reply, Server};
use crate::{Home, MODEL, content, pull, sha256};

#[test]
fn arguments_are_found_in_order() {
    let home = Home::new();
    let config = home.config("http://127.0.0.1:1");
    let own = home.0.join("own model.gguf");
    std::fs::write(&own, "GGUF").unwrap();
    for name in ["own model", "own model.gguf", own.to_str().unwrap()] {
        assert_eq!(
            find(&config, name).unwrap(),
            Found::OnDisk(own.clone()),
            "{name}"
        );
    }
    let path = home.0.join("smollm2.gguf");
    assert!(
        matches!(find(&config, "smollm2").unwrap(), Found::Remote { path: p, .. } if p == path)
    );
    std::fs::write(&path, "GGUF").unwrap();
    assert_eq!(find(&config, "smollm2").unwrap(), Found::OnDisk(path));
    let Found::Remote { source, path } = find(&config, MODEL).unwrap() else {
        panic!("on disk")
    };
    assert_eq!(
        (source.as_str(), path),
        (MODEL, home.0.join("owner/repo/m.gguf"))
    );

    assert!(matches!(
        find(&config, "./no.gguf"),
        Err(HubError::NoSuchFile { .. })
    ));
    assert!(matches!(
        find(&config, home.0.to_str().unwrap()),
        Err(HubError::NotAFile { .. })
    ));
    assert!(matches!(
        find(&config, "hf:../x/y.gguf"),
        Err(HubError::BadName { .. })
    ));
    for name in ["no-such-model", "", "no.gguf"] {
        let error = find(&config, name).unwrap_err();
        assert!(
            matches!(error, HubError::UnknownModel { .. }),
            "{name}: {error}"
        );
        assert!(error.to_string().contains("smollm2"), "{error}");
    }
}

#[test]
fn a_model_is_listed_verified_and_removed() {
    let bytes = content(50_000, 1);
    let sum = sha256(&bytes);
    let server = Server::start(move |request| Reply::file(request, &bytes));
    let home = Home::new();
    let config = home.config(&server.url());
    assert_eq!(list(&config).unwrap().installed, []);
    let path = pull(&config, MODEL).unwrap().path;
    std::fs::write(home.0.join("own.gguf"), "GGUF").unwrap();
    std::fs::write(home.0.join("notes.txt"), "").unwrap();

    let listing = list(&config).unwrap();
    let names: Vec<_> = listing
        .installed
        .iter()
        .map(|i| (i.name.as_str(), i.size_bytes))
        .collect();
    assert_eq!(names, [("own", 4), (MODEL, 50_000)]);
    assert_eq!(listing.installed[1].source.as_deref(), Some(MODEL));
    assert!(
        listing
            .available
            .iter()
            .any(|entry| entry.name == "smollm2")
    );

    let check = |name: &str| verify(&config, name, &mut |_| ControlFlow::Continue(()));
    let verified = check(MODEL).unwrap();
    assert!(verified.is_known);
    assert_eq!(verified.sha256, [sum]);
    assert!(!check("own").unwrap().is_known);
    assert!(matches!(
        check("smollm2"),
        Err(HubError::NotInstalled { .. })
    ));
    std::fs::write(&path, "GGUF, but another").unwrap();
    assert!(matches!(check(MODEL), Err(HubError::Checksum { .. })));

    remove(&config, MODEL).unwrap();
    remove(&config, "own").unwrap();
    assert_eq!(home.files(), ["notes.txt"]);
    assert!(!home.0.join("owner").exists());
    assert!(matches!(
        remove(&config, MODEL),
        Err(HubError::NotInstalled { .. })
    ));
}

#[test]
fn only_the_folder_is_removed_from() {
    let (home, other) = (Home::new(), Home::new());
    let config = home.config("http://127.0.0.1:1");
    let path = other.0.join("m.gguf");
    std::fs::write(&path, "GGUF").unwrap();
    assert!(matches!(
        remove(&config, path.to_str().unwrap()),
        Err(HubError::NotInstalled { .. })
    ));
    let name = format!("../{}/m", other.0.file_name().unwrap().to_str().unwrap());
    assert!(remove(&config, &name).is_err());
    assert!(path.exists());
}
