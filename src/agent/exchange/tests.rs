use std::net::Ipv4Addr;

use super::*;
use crate::oci::Store;

struct Host {
    _directory: tempfile::TempDir,
    store: Store,
    exchange: Arc<Exchange>,
    peer: Peer,
}

async fn host(authority: &Authority, name: &str, blobs: &[Blob]) -> Host {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(&directory.path().join("store")).unwrap();
    let (exchange, port) = Exchange::open(
        directory.path().to_owned(),
        store.hold().unwrap(),
        blobs,
        Ipv4Addr::LOCALHOST.into(),
        &authority.credentials(name).unwrap(),
        CancellationToken::new(),
    )
    .await
    .unwrap();
    let peer = Peer {
        name: name.into(),
        address: (Ipv4Addr::LOCALHOST, port).into(),
    };
    Host {
        _directory: directory,
        store,
        exchange,
        peer,
    }
}

/// A blob of two pieces.
fn content() -> (Vec<u8>, Blob, [Piece; 2]) {
    let content: Vec<u8> = (0..500_000u32).map(|n| (n * 7) as u8).collect();
    let blob = Blob::of("application/octet-stream", &content);
    let pieces = [(0, 300_000), (300_000, 200_000)].map(|(offset, size)| Piece {
        blob: blob.clone(),
        offset: offset as u64,
        size: size as u64,
        digest: Digest::of(&content[offset..offset + size]),
    });
    (content, blob, pieces)
}

/// A host that has the blob in its store.
async fn giver(authority: &Authority, name: &str) -> (Host, Blob, [Piece; 2]) {
    let (content, blob, pieces) = content();
    let host = host(authority, name, &[]).await;
    host.store
        .hold()
        .unwrap()
        .put(&blob.media_type, &content)
        .unwrap();
    (host, blob, pieces)
}

#[tokio::test]
async fn pieces_go_from_host_to_host_and_make_the_blob() {
    let authority = Authority::new().unwrap();
    let (one, blob, pieces) = giver(&authority, "one.test").await;
    let two = host(&authority, "two.test", std::slice::from_ref(&blob)).await;
    let three = host(&authority, "three.test", std::slice::from_ref(&blob)).await;
    two.exchange.fetch(&pieces[1], &one.peer).await.unwrap();
    // Before the blob is whole, and not what it does not have.
    three.exchange.fetch(&pieces[1], &two.peer).await.unwrap();
    let error = three
        .exchange
        .fetch(&pieces[0], &two.peer)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    assert_eq!(three.exchange.finish().unwrap_err().kind(), Kind::Integrity);
    assert!(!three.store.contains(&blob));
    two.exchange.fetch(&pieces[0], &one.peer).await.unwrap();
    two.exchange.finish().unwrap();
    assert!(two.store.contains(&blob));
    // What is in the store by now can still be had.
    three.exchange.fetch(&pieces[0], &two.peer).await.unwrap();
    three.exchange.finish().unwrap();
    assert!(three.store.contains(&blob));
}

#[tokio::test]
async fn a_piece_that_was_forged_is_refused_and_not_passed_on() {
    let authority = Authority::new().unwrap();
    let (one, blob, pieces) = giver(&authority, "one.test").await;
    let two = host(&authority, "two.test", std::slice::from_ref(&blob)).await;
    let mut lie = pieces[0].clone();
    lie.digest = Digest::of("something else");
    let error = two.exchange.fetch(&lie, &one.peer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
    let three = host(&authority, "three.test", std::slice::from_ref(&blob)).await;
    let error = three
        .exchange
        .fetch(&pieces[0], &two.peer)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    two.exchange.fetch(&pieces[0], &one.peer).await.unwrap();
}

#[tokio::test]
async fn pieces_that_make_no_sense_are_refused() {
    let authority = Authority::new().unwrap();
    let (one, blob, pieces) = giver(&authority, "one.test").await;
    let two = host(&authority, "two.test", std::slice::from_ref(&blob)).await;
    for (offset, size) in [(400_000, 200_000), (u64::MAX, 10), (10, u64::MAX)] {
        let piece = Piece {
            offset,
            size,
            ..pieces[0].clone()
        };
        two.exchange.fetch(&piece, &one.peer).await.unwrap_err();
    }
    let unknown = Piece {
        blob: Blob::of("text/plain", b"other"),
        ..pieces[0].clone()
    };
    assert_ne!(
        two.exchange
            .fetch(&unknown, &one.peer)
            .await
            .unwrap_err()
            .kind(),
        Kind::Integrity
    );
    two.exchange.fetch(&pieces[0], &one.peer).await.unwrap();
}

#[tokio::test]
async fn strangers_are_turned_away_on_both_sides() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (one, blob, pieces) = giver(&ours, "one.test").await;
    let stranger = host(&theirs, "one.test", std::slice::from_ref(&blob)).await;
    let error = stranger
        .exchange
        .fetch(&pieces[0], &one.peer)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    // The right authority, but not the host that was meant.
    let two = host(&ours, "two.test", std::slice::from_ref(&blob)).await;
    let other = Peer {
        name: "three.test".into(),
        ..one.peer.clone()
    };
    let error = two.exchange.fetch(&pieces[0], &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    let posing = Peer {
        name: "one.test".into(),
        ..stranger.peer.clone()
    };
    let two = host(&ours, "two.test", std::slice::from_ref(&blob)).await;
    assert_eq!(
        two.exchange
            .fetch(&pieces[0], &posing)
            .await
            .unwrap_err()
            .kind(),
        Kind::Unreachable
    );
    // A client that shows no certificate gets nowhere either.
    let mut plain = TcpStream::connect(one.peer.address).await.unwrap();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    plain
        .write_all(b"\0\0\0\x38\0\0\0\0\0{\"type\":\"hello\"}")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("hello"));
}

#[tokio::test]
async fn nothing_is_given_after_the_end() {
    let authority = Authority::new().unwrap();
    let (one, blob, pieces) = giver(&authority, "one.test").await;
    let two = host(&authority, "two.test", std::slice::from_ref(&blob)).await;
    two.exchange.fetch(&pieces[0], &one.peer).await.unwrap();
    one.exchange.end();
    let error = two.exchange.fetch(&pieces[1], &one.peer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);
    two.exchange.end();
    assert_eq!(
        two.exchange
            .fetch(&pieces[1], &one.peer)
            .await
            .unwrap_err()
            .kind(),
        Kind::Interrupted
    );
}
