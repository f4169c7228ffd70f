//! Connections: how many there are, and the end of those whose client takes nothing.
//!
//! A client that does not read its answer fills the system's buffers, and then the server's write
//! waits. Waiting is right while a client is slow and wrong when it is stuck: after
//! `timeouts.write_seconds` without a byte taken the connection is broken off, and its requests
//! with it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::metrics::GaugeGuard;
use crate::state::AppState;

/// Makes [`Connection`]s of accepted sockets, up to a number.
#[derive(Clone)]
pub(crate) struct Acceptor {
    state: AppState,
    slots: Arc<Semaphore>,
    write_timeout: Duration,
}

impl Acceptor {
    pub(crate) fn new(state: &AppState) -> Self {
        let settings = state.settings();
        Self {
            state: state.clone(),
            slots: Arc::new(Semaphore::new(settings.config.limits.connections)),
            write_timeout: settings.config.timeouts.write(),
        }
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = Connection;
    type Service = S;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Connection, S)>> + Send>>;

    fn accept(&self, socket: TcpStream, service: S) -> Self::Future {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let open = self.state.metrics().connection();
        let write_timeout = self.write_timeout;
        Box::pin(async move {
            // Closed at once: a connection that waited would hold a descriptor all the same.
            let slot = slot.map_err(|_| {
                io::Error::other("as many connections as limits.connections allows")
            })?;
            // A token is a packet of its own; waiting to fill one would delay it.
            socket.set_nodelay(true)?;
            let connection = Connection {
                socket,
                write_timeout,
                stalled: None,
                _slot: slot,
                _open: open,
            };
            Ok((connection, service))
        })
    }
}

/// A socket whose writes fail when nothing is taken for too long.
pub(crate) struct Connection {
    socket: TcpStream,
    write_timeout: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
    _open: GaugeGuard,
}

impl Connection {
    /// Passes on what a write came to; one that waits does so until the timeout.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let write_timeout = self.write_timeout;
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + write_timeout)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.watch(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Loaded;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_broken_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let acceptor = Acceptor::new(&AppState::without_models(Loaded::default()));
        let (mut connection, ()) = acceptor.accept(socket, ()).await.unwrap();
        // The clock is paused and goes on by itself only when everything waits.
        let data = vec![0; 1 << 20];
        let started = Instant::now();
        let error = loop {
            if let Err(error) = connection.write_all(&data).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);
        drop(client);
    }

    #[tokio::test]
    async fn connections_over_the_limit_are_closed() {
        let mut settings = Loaded::default();
        settings.config.limits.connections = 1;
        let acceptor = Acceptor::new(&AppState::without_models(settings));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let client = TcpStream::connect(address).await.unwrap();
            sockets.push((client, listener.accept().await.unwrap().0));
        }
        let mut accept = async || acceptor.accept(sockets.pop().unwrap().1, ()).await;
        let first = accept().await.unwrap();
        assert!(accept().await.is_err());
        drop(first);
        assert!(accept().await.is_ok());
    }
}
