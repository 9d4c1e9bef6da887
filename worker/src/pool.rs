//! The apalis seam: the engine hands out claims, apalis gives concurrency, panics as outcomes and a graceful stop.
//!
//! Any boxed stream of results is an apalis backend, so the step row is the job row: no second queue, no second acknowledgement
//! (ops/decisions/0001). Two rules, both learnt the hard way: the stream never yields an error (one ends the worker), and
//! handlers run as tasks of their own (`parallelize`), or a stop drops those in flight.

use std::{convert::Infallible, future::Future, task::Poll};

use apalis::prelude::*;
use engine::{
    Store,
    step::ClaimedStep,
    store::claims::{ClaimOptions, claims},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Runs a handler over the claims until they end, which they do when `options.drain` has fired and every place is free.
pub fn run<H, F>(store: Store, options: ClaimOptions, handler: H) -> BoxFuture<'static, ()>
where
    H: Fn(ClaimedStep) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let places = options.places;
    // apalis waits to be told to stop even when its stream has ended.
    let ended = CancellationToken::new();
    let end = ended.clone();
    let last = futures::stream::poll_fn(move |_| {
        end.cancel();
        Poll::Ready(None)
    });
    let steps = claims(store, options)
        .chain(last)
        .map(Ok::<_, Infallible>)
        .boxed();
    let worker = WorkerBuilder::new("codelab")
        .backend(steps)
        .catch_panic()
        .concurrency(places)
        .parallelize(tokio::spawn)
        .build(move |step: ClaimedStep| handler(step));
    // Boxed here: its type is too deep for the compiler to see from a caller that it may be sent.
    let running = worker
        .run_until(ended.cancelled_owned().map(Ok::<_, WorkerError>))
        .boxed();
    Box::pin(async move {
        if let Err(error) = running.await {
            error!(%error, "apalis gave up; the process has to be started anew");
        }
    })
}
