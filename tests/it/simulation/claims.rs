//! Writers of one name on a store that ignores `If-None-Match`, in every order.

use super::*;
use std::io::Read;
use walkeep::storage::{Claims, Key, Mode, Put, Storage};

/// Three writers with two contents. At most one of the contents is acknowledged as stored.
fn writers(world: &Arc<World>, with_claims: bool) -> std::result::Result<(), String> {
    let key = Key::new("main/wal/1").expect("a key");
    let stored = Mutex::new(BTreeSet::new());
    let store = Store::replacing(world);
    let contents = [b"one".to_vec(), b"other".to_vec(), b"one".to_vec()];
    let write = |content: Vec<u8>| {
        let store: Box<dyn Storage> =
            if with_claims { Box::new(Claims::new(store.clone())) } else { Box::new(store.clone()) };
        let mut there = Vec::new();
        match store.put(&key, &content, Mode::Create)? {
            Put::Stored => there.clone_from(&content),
            Put::Exists => {
                let object = store.get(&key, None)?.ok_or_else(missing)?;
                object.take(100).read_to_end(&mut there).expect("read from memory");
            }
        }
        if there == content {
            stored.lock().insert(content);
        }
        Ok(())
    };
    let write = &write;
    let programs = (0..).zip(contents);
    let programs =
        programs.map(|(writer, content)| program(format!("writer {writer}"), writer, move || write(content)));
    world.run(Chances { killed: 40, paused: 30, frozen: 0, later: 0, fails: 20 }, programs.collect());
    match stored.lock().len() {
        0 | 1 => Ok(()),
        _ => Err("both contents were acknowledged".to_owned()),
    }
}

#[test]
fn of_two_contents_for_one_name_at_most_one_is_acknowledged_whatever_the_order() {
    holds(&|world| writers(world, true), 500);
}

#[test]
fn the_simulation_finds_that_both_are_acknowledged_without_claims() {
    assert!(is_found(&|world| writers(world, false)), "a planted defect is not found");
}
