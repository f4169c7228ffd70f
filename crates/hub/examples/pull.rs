//! Pulls a model with the settings of the environment: `cargo run --example pull -- smollm2`.

use std::ops::ControlFlow;
use std::time::Instant;

use minerva_hub::{HubConfig, HubError, Phase};

fn main() -> Result<(), HubError> {
    let config = HubConfig::from_env()?;
    for model in std::env::args().skip(1) {
        let start = Instant::now();
        let mut phase: Option<Phase> = None;
        let result = minerva_hub::pull(&config, &model, &mut |progress| {
            if phase.replace(progress.phase) != Some(progress.phase) {
                let seconds = start.elapsed().as_secs_f64();
                let note = progress.note.unwrap_or_default();
                eprintln!(
                    "{seconds:6.2} s {:?} {} {note}",
                    progress.phase, progress.file
                );
            }
            ControlFlow::Continue(())
        });
        match result {
            Ok(pulled) => println!("{}", pulled.path.display()),
            Err(error) => eprintln!("{error}"),
        }
        eprintln!("{:6.2} s {model}", start.elapsed().as_secs_f64());
    }
    for model in minerva_hub::list(&config)?.installed {
        println!("{} {} bytes", model.name, model.size_bytes);
    }
    Ok(())
}
