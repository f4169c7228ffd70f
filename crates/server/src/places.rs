//! Places for requests that are made ready for the engine: rendered and tokenized.
//!
//! That takes a processor's time, and with a hostile template or text seconds of it. So there are
//! as many places as processors, and one model has at most half of them: whatever its requests
//! take, those of the others go on.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places at the least: two for a model, and two for the others.
const MIN_PLACES: usize = 4;

/// All places, and those of each model.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    n_per_model: usize,
    by_model: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place, which is free again when this goes.
pub(crate) type Place = [OwnedSemaphorePermit; 2];

impl Places {
    /// As many as there are processors.
    pub(crate) fn new() -> Self {
        let n_processors =
            std::thread::available_parallelism().map_or(MIN_PLACES, NonZeroUsize::get);
        let n_places = n_processors.max(MIN_PLACES);
        Self {
            all: Arc::new(Semaphore::new(n_places)),
            n_per_model: n_places / 2,
            by_model: Mutex::default(),
        }
    }

    /// Waits for a place; in turn, among the requests of one model.
    pub(crate) async fn get(&self, model: &str) -> Place {
        let of_model = {
            let mut by_model = self.by_model.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has or waits for are as good as new ones.
            by_model.retain(|name, places| name == model || Arc::strong_count(places) > 1);
            let places = by_model.entry(model.to_owned());
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(self.n_per_model))))
        };
        let all = Arc::clone(&self.all);
        // In this order: who waits for the places of a model keeps nobody else waiting.
        let of_model = of_model.acquire_owned().await;
        let of_all = all.acquire_owned().await;
        [of_model, of_all].map(|permit| permit.expect("these are never closed"))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_model_leaves_places_to_the_others() {
        let places = Places::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut get = |model| match pin!(places.get(model)).poll(&mut context) {
            std::task::Poll::Ready(place) => Some(place),
            std::task::Poll::Pending => None,
        };
        let mut taken = Vec::new();
        while let Some(place) = get("greedy") {
            taken.push(place);
        }
        assert_eq!(taken.len(), places.n_per_model);
        assert!(get("modest").is_some());
        taken.pop();
        assert!(get("greedy").is_some());
        taken.clear();
        get("modest");
        assert_eq!(places.by_model.lock().unwrap().len(), 1);
    }
}
