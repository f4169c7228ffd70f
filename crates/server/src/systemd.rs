//! What systemd is told of a service of `Type=notify` or `notify-reload`; nothing elsewhere.

use tokio::sync::watch;

use crate::lifecycle::Phase;

/// Tells when the server is ready. That it ends is told by [`stopping`], from where it ends: a task
/// could be given up before its turn.
pub(crate) async fn tell_ready(mut phase: watch::Receiver<Phase>) {
    if let Ok(Phase::Ready) = phase
        .wait_for(|phase| *phase != Phase::Starting)
        .await
        .as_deref()
    {
        ready();
    }
}

#[cfg(target_os = "linux")]
mod on_linux {
    use sd_notify::NotifyState;

    fn notify(states: &[NotifyState<'_>]) {
        // Without NOTIFY_SOCKET, which is everywhere but under systemd, this does nothing.
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "systemd cannot be told");
        }
    }

    pub(crate) fn ready() {
        notify(&[NotifyState::Ready]);
    }

    pub(crate) fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, now]);
        }
    }

    pub(crate) fn stopping() {
        notify(&[NotifyState::Stopping]);
    }
}

#[cfg(target_os = "linux")]
pub(crate) use on_linux::{ready, reloading, stopping};

#[cfg(not(target_os = "linux"))]
pub(crate) fn ready() {}

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn reloading() {}

#[cfg(not(target_os = "linux"))]
pub(crate) fn stopping() {}
