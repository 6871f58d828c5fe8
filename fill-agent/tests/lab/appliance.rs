//! The stand-in for the segment server: speaks its socket, reads catalogues, looks at the volumes, serves nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use content::catalogue::file::Catalogue;
use content::catalogue::{CATALOGUE_FOLDER, CURRENT_NAME, generation_name, generation_of_current};
use content::control_socket::{ServedVolume, ServerAnswer, ServerRequest, ServerStatus};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{FakeServer, Shared, World};

pub async fn serve(socket: PathBuf, state: PathBuf, shared: Shared) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (state, shared) = (state.clone(), Arc::clone(&shared));
            tokio::spawn(async move { converse(stream, &state, &shared).await });
        }
    });
}

async fn converse(stream: UnixStream, state: &Path, shared: &Shared) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: ServerRequest = serde_json::from_str(&line).unwrap();
        if shared.0.lock().unwrap().server.down {
            return;
        }
        let answer = answer(request, state, &mut shared.0.lock().unwrap());
        shared.1.notify_all();
        let Some(answer) = answer else { return std::future::pending().await };
        let mut line = serde_json::to_vec(&answer).unwrap();
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// None: it never answers this one.
fn answer(request: ServerRequest, state: &Path, world: &mut World) -> Option<ServerAnswer> {
    let server = &mut world.server;
    match request {
        ServerRequest::Status => {}
        ServerRequest::Drain { on } => server.draining = on,
        ServerRequest::TokenKeys { keys } => server.token_keys = keys,
        ServerRequest::Publish { generation } => {
            server.publishes.push(generation);
            if server.hold_publish {
                return None;
            }
            if std::mem::take(&mut server.refuse_next) {
                return Some(ServerAnswer::Refused { reason: "told to".to_owned() });
            }
            load(state, generation, world);
        }
    }
    look_at_volumes(state, &mut world.server);
    Some(ServerAnswer::Status(status(world)))
}

fn load(state: &Path, generation: u64, world: &mut World) {
    let folder = state.join(CATALOGUE_FOLDER);
    let current = fs::read(folder.join(CURRENT_NAME)).unwrap();
    let current = generation_of_current(&current).unwrap();
    assert_eq!(current, Some(generation), "`current` names what is published");
    let catalogue = Catalogue::open(&folder.join(generation_name(generation))).unwrap();
    catalogue.verify().unwrap();
    world.server.generation = generation;
    let names: Vec<_> = catalogue.files().map(|file| file.number).collect();
    world.server.withdrawn.retain(|withdrawn| names.contains(&withdrawn.file));
}

/// Like the server: the first volume that was seen at a path is the one; another in its place is none of its own.
fn look_at_volumes(state: &Path, server: &mut FakeServer) {
    let lab = state.parent().unwrap();
    for path in (0..9).map(|index| lab.join(format!("v{index}"))) {
        let found = fill_agent::volumes::probe(&path).ok().map(|probed| probed.uuid);
        if let Some(known) = found.or_else(|| server.volumes.get(&path).map(|(uuid, _)| *uuid)) {
            let (uuid, there) = server.volumes.entry(path).or_insert((known, true));
            *there = found == Some(*uuid);
        }
    }
}

fn status(world: &World) -> ServerStatus {
    let server = &world.server;
    let unseen = server.unseen.iter().map(|uuid| (uuid, true));
    let seen = server.volumes.values().map(|(uuid, there)| (uuid, *there));
    let volumes = seen.chain(unseen).map(|(uuid, there)| ServedVolume {
        uuid: *uuid,
        usable: there && !server.unusable.contains(uuid),
        read_errors: 9,
        read_latency_us: 0,
    });
    ServerStatus {
        generation: server.generation,
        oldest_in_use: server.pinned.unwrap_or(server.generation),
        draining: server.draining,
        token_keys: u64::try_from(server.token_keys.len()).unwrap(),
        withdrawn: server.withdrawn.clone(),
        volumes: volumes.collect(),
        limited_by: "none".to_owned(),
        headroom: 0.75,
        figures: server.figures.clone(),
    }
}
