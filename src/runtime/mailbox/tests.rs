use super::*;
use crate::runtime::executor::{self, ShardOptions, Shards, spawn_latency, spawn_shards};
use futures_lite::future::{block_on, poll_once, yield_now};
use std::pin::pin;
use std::sync::atomic::AtomicU32;

fn pair(bounds: Bounds) -> (Endpoint<u32, u32>, Endpoint<u32, u32>) {
    let mut seeds = mailbox(2, bounds).into_iter();
    (seeds.next().unwrap().bind(), seeds.next().unwrap().bind())
}

const SMALL: Bounds = Bounds {
    queued_max: 2,
    outstanding_max: 3,
};

#[test]
fn requests_arrive_in_order_and_each_reply_reaches_its_request() {
    let (a, b) = pair(Bounds::default());
    block_on(async {
        let first = a.post(1, 10).await.unwrap();
        let second = a.post(1, 20).await.unwrap();
        let one = b.next().await.unwrap();
        let two = b.next().await.unwrap();
        assert_eq!((one.request, two.request, one.from), (10, 20, 0));
        b.reply(two.token, 21);
        b.reply(one.token, 11);
        assert_eq!((first.await, second.await), (Ok(11), Ok(21)));
    });
}

#[test]
fn a_post_waits_for_room_and_goes_on_when_the_receiver_has_read() {
    let (a, b) = pair(SMALL);
    block_on(async {
        let _first = a.post(1, 1).await.unwrap();
        let _second = a.post(1, 2).await.unwrap();
        let mut third = pin!(a.post(1, 3));
        assert!(poll_once(third.as_mut()).await.is_none());
        let held = b.next().await.unwrap();
        let _third = poll_once(third).await.unwrap().unwrap();
        // Now three are outstanding, whatever the receiver has read.
        let _more = b.next().await.unwrap();
        let mut fourth = pin!(a.post(1, 4));
        assert!(poll_once(fourth.as_mut()).await.is_none());
        assert_eq!((a.waits(), b.waits()), (2, 0));
        b.reply(held.token, 0);
        // What has been answered is not outstanding, taken or not.
        assert!(poll_once(fourth).await.is_some());
        assert_eq!(_first.await, Ok(0));
    });
}

#[test]
fn a_dropped_pending_leaks_no_slot_and_its_reply_reaches_nobody_else() {
    let (a, b) = pair(SMALL);
    block_on(async {
        for round in 0..10 {
            let dropped = a.post(1, round).await.unwrap();
            let request = b.next().await.unwrap();
            drop(dropped);
            let kept = a.post(1, 100 + round).await.unwrap();
            let other = b.next().await.unwrap();
            b.reply(request.token, 7);
            b.reply(other.token, other.request);
            assert_eq!(kept.await, Ok(100 + round));
        }
        assert!(a.local.state.borrow().slots.len() <= 3);
    });
}

#[test]
fn a_dropped_post_sends_nothing_and_lets_the_next_go_on() {
    let (a, b) = pair(SMALL);
    block_on(async {
        let _one = a.post(1, 1).await.unwrap();
        let _two = a.post(1, 2).await.unwrap();
        let mut dropped = Box::pin(a.post(1, 3));
        let mut behind = pin!(a.post(1, 4));
        assert!(poll_once(dropped.as_mut()).await.is_none());
        assert!(poll_once(behind.as_mut()).await.is_none());
        drop(dropped);
        b.next().await.unwrap();
        let _behind = poll_once(behind).await.unwrap().unwrap();
        assert_eq!(b.next().await.unwrap().request, 2);
        assert_eq!(b.next().await.unwrap().request, 4);
    });
}

#[test]
fn a_token_that_is_dropped_and_an_endpoint_that_closes_are_told() {
    let (a, b) = pair(Bounds::default());
    block_on(async {
        let fallen = a.post(1, 1).await.unwrap();
        drop(b.next().await.unwrap());
        assert_eq!(fallen.await, Err(Closed));
        let unread = a.post(1, 2).await.unwrap();
        b.close();
        assert_eq!(unread.await, Err(Closed));
        assert_eq!(a.call(1, 3).await, Err(Closed));
        assert!(b.next().await.is_err());
        // And a reply to an endpoint that is gone is no error.
        let (c, d) = pair(Bounds::default());
        let pending = c.post(1, 1).await.unwrap();
        let request = d.next().await.unwrap();
        c.close();
        d.reply(request.token, 1);
        assert_eq!(pending.await, Err(Closed));
    });
}

#[test]
fn an_endpoint_may_write_to_itself() {
    let (a, _b) = pair(SMALL);
    block_on(async {
        let pending = a.post(0, 5).await.unwrap();
        let request = a.next().await.unwrap();
        a.reply(request.token, request.request + 1);
        assert_eq!(pending.await, Ok(6));
    });
}

#[derive(Default)]
struct Count(AtomicU32);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_shard_that_is_awake_is_not_rung_for_and_rings_once_a_look() {
    let (a, b) = pair(Bounds::default());
    let (a_looks, b_looks) = (a.letters(), b.letters());
    let rung = Arc::new(Count::default());
    let bell = Waker::from(rung.clone());
    let rings = || rung.0.load(Ordering::SeqCst);
    block_on(async {
        assert!(!a_looks.look() && !b_looks.look());
        let first = a.post(1, 1).await.unwrap();
        a_looks.look();
        assert!(!b_looks.arm(&bell), "a letter lies there: it may not sleep");
        assert!(b_looks.look());
        b.reply(b.next().await.unwrap().token, 1);
        assert!(a_looks.look());
        assert_eq!((first.await, rings()), (Ok(1), 0));

        assert!(b_looks.arm(&bell));
        let second = a.post(1, 2).await.unwrap();
        let third = a.post(1, 3).await.unwrap();
        assert_eq!(rings(), 0, "not before the look");
        a_looks.look();
        assert_eq!(rings(), 1);
        assert!(a_looks.arm(&bell));
        assert!(b_looks.look());
        for _ in 0..2 {
            let incoming = b.next().await.unwrap();
            b.reply(incoming.token, incoming.request);
        }
        assert_eq!(rings(), 1, "not before the look");
        b_looks.look();
        assert_eq!(rings(), 2);
        assert_eq!((second.await, third.await), (Ok(2), Ok(3)));
        // Nobody looks while it sleeps, and its tasks may run.
        a_looks.look();
        assert!(a_looks.arm(&bell));
        assert!(b_looks.arm(&bell));
        let _fourth = a.post(1, 4).await.unwrap();
        assert_eq!(rings(), 3, "at once");
    });
}

#[test]
fn an_endpoint_that_closes_without_a_further_look_rings() {
    let (a, b) = pair(Bounds::default());
    let (a_looks, b_looks) = (a.letters(), b.letters());
    let rung = Arc::new(Count::default());
    block_on(async {
        a_looks.look();
        assert!(b_looks.arm(&Waker::from(rung.clone())));
        let _unread = a.post(1, 1).await.unwrap();
        a.close();
        assert_eq!(rung.0.load(Ordering::SeqCst), 1);
    });
}

async fn serve(endpoint: Endpoint<u32, u32>) {
    while let Ok(incoming) = endpoint.next().await {
        endpoint.reply(incoming.token, incoming.request.wrapping_mul(3));
    }
}

async fn send(endpoint: Endpoint<u32, u32>, to: usize, count: u32) {
    let mut pending = VecDeque::new();
    for n in 0..count {
        pending.push_back((n, endpoint.post(to, n).await.unwrap()));
        if pending.len() > 5 {
            let (n, reply) = pending.pop_front().unwrap();
            assert_eq!(reply.await, Ok(n.wrapping_mul(3)));
        }
    }
    for (n, reply) in pending {
        assert_eq!(reply.await, Ok(n.wrapping_mul(3)));
    }
}

/// Sends `count` requests to every endpoint, itself too, from two tasks each at once, and serves
/// until all endpoints are done.
async fn flood(endpoint: Endpoint<u32, u32>, count: u32, done: Arc<AtomicU32>) {
    let all = endpoint.endpoints();
    let senders: Vec<_> = (0..2 * all)
        .map(|n| executor::spawn("sender", send(endpoint.clone(), n % all, count)))
        .collect();
    for sender in senders {
        sender.await;
    }
    done.fetch_add(1, Ordering::SeqCst);
    while (done.load(Ordering::SeqCst) as usize) < all {
        glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn flooding_shards(
    seeds: Vec<EndpointSeed<u32, u32>>,
    count: u32,
    done: &Arc<AtomicU32>,
) -> Shards<()> {
    let done = done.clone();
    spawn_shards(&[0, 1], seeds, &ShardOptions::default(), move |_, seed| {
        let done = done.clone();
        async move {
            let endpoint = seed.bind();
            let server = spawn_latency("server", serve(endpoint.clone()));
            flood(endpoint.clone(), count, done).await;
            endpoint.close();
            server.await;
        }
    })
    .unwrap()
}

#[test]
fn shards_that_flood_each_other_under_a_small_bound_finish() {
    for (shards, count) in [(2, 500), (4, 100)] {
        let done = Arc::new(AtomicU32::new(0));
        flooding_shards(mailbox(shards, SMALL), count, &done)
            .join()
            .unwrap();
    }
}

#[test]
fn a_tokio_thread_and_shards_that_flood_each_other_finish() {
    let mut seeds = mailbox(3, SMALL);
    let control = seeds.pop().unwrap();
    let done = Arc::new(AtomicU32::new(0));
    let shards = flooding_shards(seeds, 200, &done);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let endpoint = control.bind();
        let server = tokio::task::spawn_local(serve(endpoint.clone()));
        let senders: Vec<_> = (0..3)
            .map(|to| tokio::task::spawn_local(send(endpoint.clone(), to, 200)))
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        done.fetch_add(1, Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        endpoint.close();
        server.await.unwrap();
    });
    shards.join().unwrap();
}

#[test]
fn a_receiver_task_that_itself_waits_for_a_reply_gets_it() {
    let (a, b) = pair(SMALL);
    block_on(async {
        // `a` has looked for requests and sleeps; then its only task asks `b` and waits.
        assert!(poll_once(pin!(a.next())).await.is_none());
        let mut asks = pin!(a.call(1, 4));
        assert!(poll_once(asks.as_mut()).await.is_none());
        let request = b.next().await.unwrap();
        b.reply(request.token, 5);
        yield_now().await;
        assert_eq!(asks.await, Ok(5));
    });
}
