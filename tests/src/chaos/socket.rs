//! A server of the harness's own on a free loopback port.

use std::net::SocketAddr;

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};

/// A router that is being served; it stops when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Socket {
    /// Serves it.
    ///
    /// # Panics
    ///
    /// When the loopback gives no port.
    #[expect(clippy::expect_used, reason = "a test stops at the first surprise")]
    pub(super) async fn serve(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, task }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}
