//! The program as an operator starts and stops it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};

use crate::fixture::{Disks, Wire, item, secure_text, signer, target};
use crate::secure::certify;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oca-appliance"));
    command.args(arguments).env_remove("OCA_LOG").stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit code and what it said.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn it_says_when_it_is_ready_and_ends_with_0_when_told() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let disks = Disks::new();
        let config = disks.folder.path().join("box.toml");
        fs::write(&config, disks.config_text("")).unwrap();
        let mut child = start(&["--config", config.to_str().unwrap()]);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.find(|line| line.as_ref().unwrap().contains("ready")).unwrap().unwrap();
        assert!(ready.contains("127.0.0.1:"), "{ready}");
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        lines.for_each(|line| drop(line.unwrap()));
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!disks.folder.path().join("server.sock").exists());
    }
}

#[test]
fn an_answer_that_is_on_its_way_is_finished_before_it_ends() {
    let disks = Disks::new();
    let big = item(16 << 20, 1);
    disks.write(1, std::slice::from_ref(&big));
    let config = disks.folder.path().join("box.toml");
    fs::write(&config, disks.config_text("")).unwrap();
    appliance::keys::save(&disks.folder.path().join("state"), &[signer().public_key()]).unwrap();
    let mut child = start(&["--config", config.to_str().unwrap()]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ready = lines.find(|line| line.contains("ready")).unwrap();
    let address = ready.split("address=").nth(1).unwrap().split(' ').next().unwrap();
    let mut wire = Wire::open(address.parse().unwrap());
    wire.send(format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", target(&big)).as_bytes());
    wire.wait_for_a_byte();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    lines.find(|line| line.contains("told to stop")).unwrap();
    let answer = wire.read(false);
    assert_eq!((answer.status, answer.content == big.bytes), (200, true), "{}", answer.content.len());
    assert!(wire.ended());
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_operators_mistake_ends_with_2_and_names_what_to_change() {
    let disks = Disks::new();
    let config = disks.folder.path().join("box.toml");
    let good = disks.config_text("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("listen = ['{}']", taken.local_addr().unwrap());
    for (from, to, named) in [
        ("memory_mib = 16", "memory_mib = 15", "server.memory_mib"),
        ("[server.limits]", "[server.limits]\nhead_bytes = 1", "head_bytes"),
        ("listen = ['127.0.0.1:0']", &taken, "server.listen"),
        ("management = '127.0.0.1:0'", "management = '192.0.2.1:80'", "server.management"),
        ("/server.sock'", "/box.toml'", "`socket`"),
        ("/state'", "/box.toml/state'", "`state`"),
    ] {
        assert!(good.contains(from));
        fs::write(&config, good.replace(from, to)).unwrap();
        let (code, said) = end(start(&["--config", config.to_str().unwrap()]));
        assert!(code == Some(2) && said.contains(named), "{from} -> {to}: {code:?} {said}");
    }
    let (code, said) = end(start(&["--config", "/nonexistent.toml"]));
    assert!(code == Some(2) && said.contains("/nonexistent.toml"), "{said}");
    let (code, said) = end(start(&["--nonsense"]));
    assert!(code == Some(2) && said.contains("--config"), "{said}");
    assert_eq!(end(start(&["--version"])).0, Some(0));
}

/// Starts it as systemd hands sockets over: the listeners are descriptors 3 and up, and variables say so.
fn start_with(listeners: &[TcpListener; 3], names: &str, config: &str) -> Child {
    for listener in listeners {
        fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let [first, second, third] = listeners.each_ref().map(|listener| listener.as_raw_fd());
    // To high numbers first: a listener of ours may itself be 3 or 4.
    let script = format!(
        "exec 20<&{first} 21<&{second} 22<&{third} 3<&20 4<&21 5<&22 20<&- 21<&- 22<&-; \
         LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES={names} exec \"$0\" --config \"$1\""
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_oca-appliance"), config]);
    command.stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn inherited_sockets_are_all_served_with_fewer_and_with_more_workers() {
    for workers in [1, 2, 5] {
        let disks = Disks::new();
        certify(disks.folder.path());
        let config = disks.folder.path().join("box.toml");
        let text = secure_text(&disks, "").replace("workers = 2", &format!("workers = {workers}"));
        fs::write(&config, text).unwrap();
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let mut child = start_with(&listeners, "media:tls:media", config.to_str().unwrap());
        let [first, second, third] = listeners.map(|listener| listener.local_addr().unwrap());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("ready, over TLS")).unwrap().unwrap();
        for address in [first, third] {
            let answer = Wire::open(address).ask("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(answer.status, 204);
        }
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.arg("--cacert").arg(disks.folder.path().join("root.pem")).arg(format!("https://{second}/"));
        assert_eq!(curl.output().unwrap().stdout, b"403", "no token, over TLS");
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        lines.for_each(|line| drop(line.unwrap()));
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn an_inherited_socket_for_tls_wants_a_certificate() {
    let disks = Disks::new();
    let config = disks.folder.path().join("box.toml");
    fs::write(&config, disks.config_text("")).unwrap();
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let (code, said) = end(start_with(&listeners, "media:tls:media", config.to_str().unwrap()));
    assert!(code == Some(2) && said.contains("server.tls"), "{said}");
}

#[test]
fn a_number_that_is_no_listening_socket_is_refused() {
    let disks = Disks::new();
    let config = disks.folder.path().join("box.toml");
    fs::write(&config, disks.config_text("")).unwrap();
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" --config \"$1\" 3</dev/null";
    let mut command = Command::new("bash");
    command.args(["-c", script, env!("CARGO_BIN_EXE_oca-appliance"), config.to_str().unwrap()]);
    let (code, said) = end(command.stderr(Stdio::piped()).spawn().unwrap());
    assert!(code == Some(1) && said.contains("LISTEN_FDS") && said.contains("descriptor 3"), "{said}");
}
