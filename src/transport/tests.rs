//! Both halves over real sockets.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future::poll_once;

use super::*;
use crate::base::file_slice::FileSlice;
use crate::runtime::aux_ring::AuxRing;
use crate::runtime::budget::Budget;
use crate::runtime::executor::{self, yield_now};
use crate::runtime::readiness::Readiness;

fn run<T>(future: impl Future<Output = T>) -> T {
    let executor = glommio::LocalExecutorBuilder::default()
        .io_memory(64 * 1024)
        .make();
    executor.unwrap().run(future)
}

fn options(capacity: u64) -> ConnectionOptions {
    ConnectionOptions {
        budget: Budget::new(capacity, 4 << 20, Duration::from_secs(10)),
        pool: ReceivePool::new(4 << 20),
        frame_bytes_max: 4 << 20,
        aux_ring: None,
        readiness: Readiness::new(None, None, Duration::ZERO).unwrap(),
    }
}

fn pair(options: &ConnectionOptions) -> (UnixStream, FrameReader, Sender, Control) {
    let (peer, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let (reader, sender, control) = connection(OwnedFd::from(ours), options).unwrap();
    (peer, reader, sender, control)
}

fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn frames_cut_at_any_byte_come_out_whole() {
    run(async {
        let options = options(1 << 20);
        let (mut peer, mut reader, _sender, _) = pair(&options);
        let (first, second) = (pattern(9, 1), pattern(23, 2));
        let both = [framed(&first), framed(&second)].concat();
        for cut in 0..=both.len() {
            peer.write_all(&both[..cut]).unwrap();
            let mut frames = Vec::new();
            // Enough turns for the first part to be seen.
            for _ in 0..4 {
                if frames.len() < 2
                    && let Some(frame) = poll_once(pin!(reader.next())).await
                {
                    frames.push(frame.unwrap().unwrap().bytes);
                }
                yield_now().await;
            }
            peer.write_all(&both[cut..]).unwrap();
            while frames.len() < 2 {
                frames.push(reader.next().await.unwrap().unwrap().bytes);
            }
            assert_eq!((&frames[0][..], &frames[1][..]), (&first[..], &second[..]));
        }
        assert_eq!(options.budget.available(), options.budget.capacity());
        drop(peer);
        assert!(reader.next().await.unwrap().is_none());
    });
}

#[test]
fn many_small_frames_in_one_packet_come_out_in_order() {
    run(async {
        let options = options(1 << 20);
        let (mut peer, mut reader, _sender, control) = pair(&options);
        let mut sent = Vec::new();
        for n in 0..2_000u64 {
            sent.extend(framed(&n.to_be_bytes()));
        }
        peer.write_all(&sent).unwrap();
        for n in 0..2_000u64 {
            let frame = reader.next().await.unwrap().unwrap();
            assert_eq!(
                (&frame.bytes[..], frame.units.bytes()),
                (&n.to_be_bytes()[..], 8)
            );
        }
        assert_eq!(control.received(), sent.len() as u64);
        assert_eq!(options.budget.available(), 1 << 20);
    });
}

#[test]
fn large_frames_arrive_whole_and_their_units_return_with_them() {
    run(async {
        let options = options(8 << 20);
        let (mut peer, mut reader, _sender, _) = pair(&options);
        let sizes = [3 << 20, 100, 65_537, 1 << 20, 300_000, (4 << 20) - 1, 5_000];
        let bodies: Vec<Vec<u8>> = sizes.iter().map(|&s| pattern(s, s as u64)).collect();
        let sent = bodies.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..3 {
                for body in &sent {
                    peer.write_all(&framed(body)).unwrap();
                }
            }
        });
        for _ in 0..3 {
            for body in &bodies {
                let frame = reader.next().await.unwrap().unwrap();
                assert!(frame.bytes[..] == body[..], "{} bytes differ", body.len());
                assert_eq!(frame.units.bytes(), body.len() as u64);
            }
        }
        assert!(reader.next().await.unwrap().is_none());
        writer.join().unwrap();
        assert_eq!(options.budget.available(), 8 << 20);
    });
}

#[test]
fn a_length_out_of_range_and_an_end_within_a_frame_are_errors() {
    run(async {
        let options = options(1 << 20);
        for length in [0, 7, -1, i32::MIN, (4 << 20) + 1, i32::MAX] {
            let (mut peer, mut reader, _sender, _) = pair(&options);
            peer.write_all(&length.to_be_bytes()).unwrap();
            let error = reader.next().await.unwrap_err();
            assert!(matches!(error, FrameError::Length { length: l, .. } if l == length));
        }
        for sent in [&[0u8][..], &[0, 0, 0, 9], &[0, 0, 0, 9, 1, 2, 3]] {
            let (mut peer, mut reader, _sender, _) = pair(&options);
            peer.write_all(sent).unwrap();
            drop(peer);
            assert!(matches!(reader.next().await, Err(FrameError::Truncated)));
        }
        assert_eq!(options.budget.available(), 1 << 20);
    });
}

#[test]
fn a_connection_that_only_declared_a_large_frame_holds_nothing() {
    run(async {
        let options = options(1 << 20);
        let (mut peer, mut reader, _sender, _) = pair(&options);
        peer.write_all(&(4i32 << 20).to_be_bytes()).unwrap();
        assert!(poll_once(pin!(reader.next())).await.is_none());
        assert_eq!(options.budget.available(), 1 << 20);
        // And one that sent a little of it holds little.
        peer.write_all(&[1; 100]).unwrap();
        while options.budget.available() == 1 << 20 {
            assert!(poll_once(pin!(reader.next())).await.is_none());
            yield_now().await;
        }
        assert!(options.budget.capacity() - options.budget.available() <= 16 * 1024);
    });
}

#[test]
fn a_budget_of_a_tenth_of_what_500_connections_send_lets_all_finish() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    run(async {
        const CONNECTIONS: usize = 500;
        const BYTES: usize = 100_000;
        let options = options((CONNECTIONS * BYTES / 10) as u64);
        let body = Rc::new(pattern(BYTES, 7));
        let sent = framed(&body);
        let mut peers = Vec::new();
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let (mut peer, mut reader, sender, _) = pair(&options);
            peer.write_all(&sent[..BYTES / 2]).unwrap();
            peers.push(peer);
            let body = body.clone();
            tasks.push(executor::spawn("task", async move {
                let frame = reader.next().await.unwrap().unwrap();
                // What a request does before it is answered.
                yield_now().await;
                assert!(frame.bytes[..] == body[..]);
                drop((frame, sender));
            }));
        }
        // Half of every frame does not fit, and all readers have to have begun for that to show.
        while !options.budget.is_short() {
            yield_now().await;
        }
        for peer in &mut peers {
            peer.write_all(&sent[BYTES / 2..]).unwrap();
        }
        for task in tasks {
            task.await;
        }
        assert_eq!(options.budget.available(), options.budget.capacity());
    });
}

fn file_of(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile_in(".").unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    Arc::new(file)
}

fn slice(file: &Arc<File>, position: u64, len: u32) -> Part {
    Part::File(FileSlice {
        file: file.clone(),
        position,
        len,
    })
}

fn buffer(bytes: &[u8]) -> Part {
    Part::Bytes(Bytes::copy_from_slice(bytes))
}

/// Reads to the end, a little at a time.
fn read_slowly(mut peer: UnixStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut some = [0; 3_000];
        loop {
            match peer.read(&mut some).unwrap() {
                0 => return all,
                read => all.extend_from_slice(&some[..read]),
            }
        }
    })
}

fn sends_byte_for_byte(cold: bool) {
    let content = pattern(2_000_000, 3);
    let file = file_of(&content);
    let received = run(async {
        let mut options = options(1 << 20);
        if cold {
            options.aux_ring = Some(AuxRing::new().unwrap());
            rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        let (peer, reader, mut sender, _) = pair(&options);
        let received = read_slowly(peer);
        let many: Vec<Part> = (0..200).map(|n| buffer(&content[n..2 * n])).collect();
        let parts = vec![
            buffer(b"head"),
            slice(&file, 1, 1_999_999),
            slice(&file, 5, 0),
            buffer(b""),
            slice(&file, 123_456, 700_000),
            buffer(&content[..300_000]),
        ];
        sender.send(parts.into()).await.unwrap();
        sender.send(many.into()).await.unwrap();
        sender
            .send(Bytes::from_static(b"end").into())
            .await
            .unwrap();
        drop((reader, sender));
        received
    });
    let mut expected = b"head".to_vec();
    expected.extend_from_slice(&content[1..]);
    expected.extend_from_slice(&content[123_456..823_456]);
    expected.extend_from_slice(&content[..300_000]);
    (0..200).for_each(|n| expected.extend_from_slice(&content[n..2 * n]));
    expected.extend_from_slice(b"end");
    assert!(received.join().unwrap() == expected);
}

#[test]
fn buffers_and_slices_reach_a_slow_reader_byte_for_byte() {
    sends_byte_for_byte(false);
}

#[test]
fn slices_that_are_not_in_the_page_cache_reach_a_slow_reader_byte_for_byte() {
    sends_byte_for_byte(true);
}

#[test]
fn a_slice_of_a_truncated_file_is_an_error_and_the_connection_sends_no_more() {
    run(async {
        for aux_ring in [None, Some(AuxRing::new().unwrap())] {
            let options = ConnectionOptions {
                aux_ring,
                ..options(1 << 20)
            };
            let (_peer, _reader, mut sender, _) = pair(&options);
            let file = file_of(&pattern(1_000, 4));
            let error = sender.send(vec![slice(&file, 0, 2_000)].into()).await;
            assert!(matches!(error, Err(SendError::FileTruncated)));
            let error = sender.send(Bytes::from_static(b"next").into()).await;
            assert!(matches!(error, Err(SendError::Broken)));
        }
    });
}

#[test]
fn both_halves_work_at_once_and_the_end_of_both_closes_the_socket() {
    run(async {
        let options = options(1 << 20);
        let (mut peer, mut reader, mut sender, control) = pair(&options);
        // The peer does not read: this send waits for ever.
        let stuck = executor::spawn("task", async move {
            let file = file_of(&pattern(2_000_000, 5));
            sender.send(vec![slice(&file, 0, 2_000_000)].into()).await
        });
        peer.write_all(&framed(b"request-while-sending")).unwrap();
        let frame = reader.next().await.unwrap().unwrap();
        assert_eq!(&frame.bytes[..], b"request-while-sending");
        assert!(control.sent() > 0);
        control.shutdown();
        assert!(reader.next().await.unwrap().is_none());
        assert!(stuck.await.is_err());
        drop((reader, control));
        peer.set_nonblocking(false).unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
    });
}

#[test]
fn a_bound_port_is_refused_to_another_and_connections_come_out_non_blocking() {
    run(async {
        let options = SocketOptions::default();
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
        let address = bound.local_addr();
        let error = Bound::bind(address, options).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let listener = bound.listen();
        for early in [true, false] {
            let accepted = if early {
                let peer = std::net::TcpStream::connect(address).unwrap();
                let accepted = listener.accept().await.unwrap();
                assert_eq!(accepted.peer, peer.local_addr().unwrap());
                accepted
            } else {
                let mut accept = pin!(listener.accept());
                assert!(poll_once(accept.as_mut()).await.is_none());
                let peer = std::net::TcpStream::connect(address).unwrap();
                let accepted = accept.await.unwrap();
                assert_eq!(accepted.peer, peer.local_addr().unwrap());
                accepted
            };
            let flags = rustix::fs::fcntl_getfl(&accepted.fd).unwrap();
            assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
            let socket = socket2::Socket::from(accepted.fd);
            assert!(socket.tcp_nodelay().unwrap());
        }
    });
}

#[test]
fn connections_get_the_buffers_that_were_asked_for_or_the_kernels() {
    run(async {
        let sizes = async |options| {
            let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
            let peer = std::net::TcpStream::connect(bound.local_addr()).unwrap();
            let accepted = bound.listen().accept().await.unwrap();
            let socket = socket2::Socket::from(accepted.fd);
            drop(peer);
            (
                socket.send_buffer_size().unwrap(),
                socket.recv_buffer_size().unwrap(),
            )
        };
        let asked = SocketOptions {
            send_buffer_bytes: Some(20_000),
            receive_buffer_bytes: Some(30_000),
            ..SocketOptions::default()
        };
        // The kernel doubles them, for what it keeps beside the bytes (socket(7)).
        assert_eq!(sizes(asked).await, (40_000, 60_000));
        let (send, receive) = sizes(SocketOptions::default()).await;
        assert!(send > 40_000 && receive > 60_000, "{send} {receive}");
    });
}
