//! Short ways to the stage traits, for connectors and transformers that are simple.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures_core::Stream;

use crate::{BatchStream, BoundTransformer, Effect, Result, RunContext, Transformer};

/// The next batch of a stream.
pub async fn next_batch(stream: &mut BatchStream) -> Option<Result<RecordBatch>> {
    std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await
}

/// A stream of what `next` gives until it gives `None` or an error. `next` may compute and may wait for local files,
/// for streams are polled on worker threads.
pub fn batches_from_fn(next: impl FnMut() -> Result<Option<RecordBatch>> + Send + 'static) -> BatchStream {
    struct FromFn<F>(Option<Box<F>>);

    impl<F: FnMut() -> Result<Option<RecordBatch>> + Send> Stream for FromFn<F> {
        type Item = Result<RecordBatch>;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let this = self.get_mut();
            let Some(next) = &mut this.0 else { return Poll::Ready(None) };
            let item = next().transpose();
            if !matches!(item, Some(Ok(_))) {
                this.0 = None;
            }
            Poll::Ready(item)
        }
    }

    Box::pin(FromFn(Some(Box::new(next))))
}

/// A stream of the batches of an iterator, which ends at the first error.
pub fn batches_from_iter<I>(batches: I) -> BatchStream
where
    I: IntoIterator<Item = Result<RecordBatch>>,
    I::IntoIter: Send + 'static,
{
    let mut batches = batches.into_iter();
    batches_from_fn(move || batches.next().transpose())
}

/// `input` with `f` applied to each batch. Batches without rows are left out.
pub fn map_stream(
    input: BatchStream,
    f: impl FnMut(RecordBatch) -> Result<RecordBatch> + Send + 'static,
) -> BatchStream {
    struct Map<F> {
        input: Option<BatchStream>,
        f: Box<F>,
    }

    impl<F: FnMut(RecordBatch) -> Result<RecordBatch>> Stream for Map<F> {
        type Item = Result<RecordBatch>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let this = self.get_mut();
            loop {
                let Some(input) = &mut this.input else { return Poll::Ready(None) };
                let item = match std::task::ready!(input.as_mut().poll_next(cx)) {
                    Some(item) => item.and_then(&mut *this.f),
                    None => {
                        this.input = None;
                        return Poll::Ready(None);
                    }
                };
                match &item {
                    Ok(batch) if batch.num_rows() == 0 => continue,
                    Ok(_) => {}
                    Err(_) => this.input = None,
                }
                return Poll::Ready(Some(item));
            }
        }
    }

    Box::pin(Map { input: Some(input), f: Box::new(f) })
}

/// `input` with the batches that `f` makes of each, which are asked for one after another. Batches without rows are left out.
pub fn flat_map_stream<I>(input: BatchStream, f: impl FnMut(RecordBatch) -> Result<I> + Send + 'static) -> BatchStream
where
    I: Iterator<Item = Result<RecordBatch>> + Send + Unpin + 'static,
{
    struct FlatMap<F, I> {
        input: Option<BatchStream>,
        f: Box<F>,
        current: Option<I>,
    }

    impl<F, I> Stream for FlatMap<F, I>
    where
        F: FnMut(RecordBatch) -> Result<I>,
        I: Iterator<Item = Result<RecordBatch>> + Unpin,
    {
        type Item = Result<RecordBatch>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let this = self.get_mut();
            loop {
                let item = match this.current.as_mut().and_then(Iterator::next) {
                    Some(Ok(batch)) if batch.num_rows() == 0 => continue,
                    Some(item) => item,
                    None => {
                        this.current = None;
                        let Some(input) = &mut this.input else { return Poll::Ready(None) };
                        match std::task::ready!(input.as_mut().poll_next(cx)).map(|batch| batch.and_then(&mut *this.f))
                        {
                            Some(Ok(parts)) => {
                                this.current = Some(parts);
                                continue;
                            }
                            Some(Err(error)) => Err(error),
                            None => {
                                this.input = None;
                                return Poll::Ready(None);
                            }
                        }
                    }
                };
                if item.is_err() {
                    (this.input, this.current) = (None, None);
                }
                return Poll::Ready(Some(item));
            }
        }
    }

    Box::pin(FlatMap { input: Some(input), f: Box::new(f), current: None })
}

/// A transformer that works batch by batch: `bind` looks at the input schema and gives the output schema and the
/// function that makes the one into the other.
///
/// ```
/// use etlrs_core::{map_batches, RecordBatch, Result, SchemaRef};
///
/// let first_ten = map_batches(|schema: &SchemaRef| {
///     let schema = schema.clone();
///     Ok((schema, |batch: RecordBatch| Ok(batch.slice(0, batch.num_rows().min(10)))))
/// });
/// # let _ = first_ten;
/// ```
pub fn map_batches<B, F>(bind: B) -> impl Transformer
where
    B: Fn(&SchemaRef) -> Result<(SchemaRef, F)> + Send + Sync,
    F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
{
    struct MapBatches<B>(B);

    struct Bound<F> {
        schema: SchemaRef,
        f: Arc<F>,
    }

    impl<B, F> Transformer for MapBatches<B>
    where
        B: Fn(&SchemaRef) -> Result<(SchemaRef, F)> + Send + Sync,
        F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
            let (schema, f) = (self.0)(input)?;
            Ok(Arc::new(Bound { schema, f: Arc::new(f) }))
        }
    }

    impl<F> BoundTransformer for Bound<F>
    where
        F: Fn(RecordBatch) -> Result<RecordBatch> + Send + Sync + 'static,
    {
        fn schema(&self) -> SchemaRef {
            self.schema.clone()
        }

        fn apply(&self, _: &RunContext, input: BatchStream) -> BatchStream {
            let f = self.f.clone();
            map_stream(input, move |batch| f(batch))
        }
    }

    MapBatches(bind)
}

/// The same transformer, whose errors at plan time say that they are in `name`.
pub fn named(name: impl Into<String>, transformer: Arc<dyn Transformer>) -> impl Transformer {
    struct Named(String, Arc<dyn Transformer>);

    impl Transformer for Named {
        fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
            self.1.bind(input).map_err(|error| error.within(&self.0))
        }

        fn name(&self) -> &str {
            // Behind the file that it is in.
            self.0.rsplit_once(", ").map_or(&self.0, |(_, name)| name)
        }

        fn effect(&self) -> Effect {
            self.1.effect()
        }
    }

    Named(name.into(), transformer)
}
