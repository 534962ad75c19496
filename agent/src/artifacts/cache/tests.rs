use std::io::Write as _;

use super::*;

fn artifact(number: u32, checksum: Option<Checksum>) -> Artifact {
    let source = format!("https://h/{number}?sig=secret");
    Artifact { source, checksum, to: "a".to_owned() }
}

fn fetched(cache: &Cache, artifact: &Artifact, bytes: &[u8]) -> Result<Key, Adopting> {
    let key = Key::of(artifact);
    let (mut part, _) = cache.part(artifact, &key).unwrap();
    part.write_all(bytes).unwrap();
    drop(part);
    cache.adopt(artifact, &key, &Stamp::default()).map(|()| key)
}

fn open(dir: &Path, keep: u64) -> Cache {
    Cache::open(dir.join("cache"), keep, "boot".to_owned()).unwrap()
}

#[test]
fn what_was_checked_is_kept_and_what_was_touched_since_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let key = fetched(&cache, &artifact(1, None), b"weights").unwrap();
    let again = open(dir.path(), 1 << 30);
    assert!(again.held(&key).is_some());
    let record = fs::read_to_string(again.file(&key, ".record")).unwrap();
    assert!(record.contains("https://h/1") && !record.contains("secret"), "{record}");
    fs::set_permissions(again.file(&key, ""), Permissions::from_mode(0o600)).unwrap();
    fs::write(again.file(&key, ""), b"WEIGHTS").unwrap();
    fs::write(again.dir().join("stranger"), b"x").unwrap();
    let later = open(dir.path(), 1 << 30);
    assert!(later.held(&key).is_none());
    assert_eq!(fs::read_dir(later.dir()).unwrap().count(), 0);
}

#[test]
fn a_wrong_checksum_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let right = Checksum(Sha256::digest(b"right").into());
    let refused = fetched(&cache, &artifact(1, Some(right)), b"wrong").unwrap_err();
    assert!(matches!(refused, Adopting::WrongChecksum { .. }), "{refused:?}");
    assert_eq!(fs::read_dir(cache.dir()).unwrap().count(), 0);
    let failure = |at| refused_with(right).into_failure(at);
    assert!(matches!(failure(0), Failure::Lasting(_)));
    assert!(matches!(failure(9), Failure::Passing(_)), "the beginning may be the wrong one");
    fetched(&cache, &artifact(1, Some(right)), b"right").unwrap();
}

fn refused_with(expected: Checksum) -> Adopting {
    Adopting::WrongChecksum { expected, found: Checksum([0; 32]) }
}

#[test]
fn a_beginning_is_gone_on_with_unless_a_power_cut_may_have_torn_it() {
    let dir = tempfile::tempdir().unwrap();
    let stamp = Stamp { etag: Some("\"1\"".to_owned()), ..Stamp::default() };
    for (checksum, boot, expected) in
        [(None, "boot", Some(5)), (None, "next", None), (Some(Checksum([1; 32])), "next", Some(5))]
    {
        let (artifact, cache) = (artifact(1, checksum), open(dir.path(), 1 << 30));
        let key = Key::of(&artifact);
        let (mut part, begun) = cache.part(&artifact, &key).unwrap();
        assert_eq!(begun, None);
        part.write_all(b"begin").unwrap();
        cache.note_begun(&key, &stamp).unwrap();
        drop(part);
        let later = Cache { boot_id: boot.to_owned(), ..cache };
        let (_, begun) = later.part(&artifact, &key).unwrap();
        assert_eq!(begun.map(|begun| begun.bytes), expected, "{checksum:?} {boot}");
        later.forget_part(&key);
    }
}

#[test]
fn the_least_recently_used_makes_room_but_never_what_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 250_000);
    let keys: Vec<Key> = (0..3)
        .map(|number| fetched(&cache, &artifact(number, None), &[7; 100_000]).unwrap())
        .collect();
    for (age, key) in (1_u64..).zip(&keys) {
        let at = SystemTime::now() - Duration::from_secs(1000 - age);
        for ending in ["", ".record"] {
            let file = File::open(cache.file(key, ending)).unwrap();
            file.set_modified(at).unwrap();
        }
    }
    let here = || -> Vec<bool> { keys.iter().map(|key| cache.file(key, "").exists()).collect() };
    cache.shrink(|key| keys.contains(key));
    assert_eq!(here(), [true, true, true]);
    cache.shrink(|key| *key == keys[0]);
    assert_eq!(here(), [true, false, true]);
}
