//! Where an error of a transformer is: in which transformer, and with which piece of the source.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use arrow_array::RecordBatch;
use etlrs_core::{BatchStream, Error, ErrorKind, Partition, Result};
use futures_core::Stream;

/// What `apply` makes of `input`, with a place for errors of its own: the transformer `name`, at work on one of `pieces`.
/// Those that come through it are from elsewhere.
pub(crate) fn placed(
    name: &str,
    partition: &Partition,
    pieces: usize,
    input: BatchStream,
    apply: impl FnOnce(BatchStream) -> BatchStream,
) -> BatchStream {
    let mut place: Vec<String> = partition.source.iter().map(ToString::to_string).collect();
    if pieces > 1 {
        place.push(format!("piece {} of {pieces}", partition.id.index() + 1));
    }
    place.push(name.to_owned());
    let place = place.join(", ");
    let came = Arc::new(AtomicBool::new(false));
    let came_through = came.clone();
    let input = on_error(input, move |error| {
        came_through.store(true, Ordering::Relaxed);
        error
    });
    on_error(apply(input), move |error| match came.load(Ordering::Relaxed) {
        true => error,
        _ if error.kind() == ErrorKind::Cancelled => error,
        false if error.position().source.is_none() => error.in_source(&place),
        false => error.within(&place),
    })
}

/// `input` with `change` applied to its error.
fn on_error(input: BatchStream, change: impl Fn(Error) -> Error + Send + 'static) -> BatchStream {
    struct OnError<F> {
        input: BatchStream,
        change: Box<F>,
    }

    impl<F: Fn(Error) -> Error> Stream for OnError<F> {
        type Item = Result<RecordBatch>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let this = self.get_mut();
            let item = ready!(this.input.as_mut().poll_next(cx));
            Poll::Ready(item.map(|batch| batch.map_err(&*this.change)))
        }
    }

    Box::pin(OnError { input, change: Box::new(change) })
}
