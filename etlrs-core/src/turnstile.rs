use tokio::sync::watch;

use crate::PartitionId;

/// Lets partitions through one after another, in their order: for targets that are one ordered sink.
///
/// The partition whose turn it is never waits for another, so whoever waits here may hold what only it can free, as
/// long as the partition in turn needs nothing of that.
#[derive(Debug)]
pub struct Turnstile(watch::Sender<u32>);

impl Turnstile {
    /// The first turn is that of partition 0.
    pub fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Whether all partitions before `partition` are through.
    pub fn is_turn_of(&self, partition: PartitionId) -> bool {
        *self.0.borrow() >= partition.0
    }

    /// Waits until all partitions before `partition` are through. May be dropped and called again.
    pub async fn wait(&self, partition: PartitionId) {
        let mut turn = self.0.subscribe();
        // The sender is in `self`, so the channel cannot close while this waits.
        let _ = turn.wait_for(|turn| *turn >= partition.0).await;
    }

    /// Notes that `partition` is through. Only the partition in turn calls it, once.
    pub fn pass(&self, partition: PartitionId) {
        self.0.send_if_modified(|turn| {
            let next = partition.0.saturating_add(1);
            let modified = *turn < next;
            *turn = (*turn).max(next);
            modified
        });
    }
}

impl Default for Turnstile {
    fn default() -> Self {
        Self::new()
    }
}
