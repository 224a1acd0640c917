//! The client's end of a connection, which remembers why it broke. With TLS 1.3 a client learns that it was refused only
//! after its handshake, and gRPC libraries swallow the reason.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::fault::{ConnectError, tls_error};

/// Why a connection broke, if it did so by a TLS error. Shared: keep a clone, and ask it when a call has failed.
#[derive(Clone, Debug, Default)]
pub struct LastError(Arc<OnceLock<ConnectError>>);

impl LastError {
    /// The first TLS error of the connection, such as the alert with which the peer refused us.
    #[must_use]
    pub fn get(&self) -> Option<ConnectError> {
        self.0.get().cloned()
    }

    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = &outcome else { return outcome };
        if let Some(tls) = tls_error(error) {
            let kept = match tls {
                rustls::Error::AlertReceived(alert) => ConnectError::Refused((*alert).into()),
                other => ConnectError::Tls(other.clone()),
            };
            // The first one is the cause; what follows follows from it.
            let _ = self.0.set(kept);
        }
        outcome
    }
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct ClientStream<IO> {
    stream: TlsStream<IO>,
    last_error: LastError,
}

impl<IO> ClientStream<IO> {
    pub(crate) fn new(stream: TlsStream<IO>) -> Self {
        ClientStream { stream, last_error: LastError::default() }
    }

    /// Where the reason is found when the connection breaks.
    #[must_use]
    pub fn last_error(&self) -> LastError {
        self.last_error.clone()
    }

    /// The transport, and what was negotiated.
    #[must_use]
    pub fn get_ref(&self) -> (&IO, &rustls::ClientConnection) {
        self.stream.get_ref()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.last_error.note(outcome)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.last_error.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.last_error.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.last_error.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.last_error.note(outcome)
    }
}
