//! One interface up, with one address: two netlink messages (rtnetlink(7)), without any program to help.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

// From linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h and linux/if.h.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
/// NLM_F_REQUEST and NLM_F_ACK.
const ASK: u16 = 0x1 | 0x4;
/// NLM_F_CREATE and NLM_F_EXCL.
const CREATE: u16 = 0x400 | 0x200;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;
const HEAD_BYTES: usize = 16;

/// `address` comes with its prefix's length in bits. The loopback's own address comes by itself.
pub fn bring_up(interface: &str, address: Option<(Ipv4Addr, u8)>) -> Result<()> {
    let path = format!("/sys/class/net/{interface}/ifindex");
    let index = fs::read_to_string(&path).with_context(|| format!("there is no {interface} ({path})"))?;
    let index = index.trim().parse().with_context(|| format!("{path} holds no number"))?;
    if let Some((address, prefix_bits)) = address {
        ask(&address_message(index, address, prefix_bits)).context("the address is refused")?;
    }
    ask(&up_message(index)).context("it does not come up")
}

fn up_message(index: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    message(RTM_NEWLINK, ASK, &body)
}

fn address_message(index: u32, address: Ipv4Addr, prefix_bits: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix_bits, 0, 0];
    body.extend(index.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        // Length with this head, kind, four bytes.
        body.extend(8_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    message(RTM_NEWADDR, ASK | CREATE, &body)
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEAD_BYTES + body.len()).expect("a message is a few words");
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // A sequence number and a port, which one question at a time does not need.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn ask(message: &[u8]) -> Result<()> {
    let kernel =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(kernel.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let size = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read_answer(answer.get(..size).unwrap_or_default())
}

/// NLMSG_ERROR with 0 is the kernel's yes.
fn read_answer(bytes: &[u8]) -> Result<()> {
    let kind = bytes.get(4..6).and_then(|kind| Some(u16::from_ne_bytes(kind.try_into().ok()?)));
    let code = bytes
        .get(HEAD_BYTES..HEAD_BYTES + 4)
        .and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?)));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Errno::from_raw(code.saturating_neg()).into()),
        _ => bail!("an answer of another kind: {bytes:?}"),
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn an_address_and_an_interface_that_is_up_are_there_afterwards() {
        // In a thread of its own, so that only this thread changes its network.
        let inside = std::thread::spawn(|| {
            if let Err(cause) = unshare(CloneFlags::CLONE_NEWNET) {
                println!("SKIP: no network namespace may be made here: {cause}");
                return;
            }
            let address = Ipv4Addr::new(10, 9, 8, 7);
            // /sys shows the namespace that mounted it; the loopback has this number in every one.
            ask(&address_message(1, address, 24)).unwrap();
            ask(&up_message(1)).unwrap();
            let again = ask(&address_message(1, address, 24)).unwrap_err();
            assert_eq!(again.downcast_ref::<Errno>(), Some(&Errno::EEXIST));
            std::net::TcpListener::bind((address, 0)).unwrap();
            let up = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            std::net::TcpStream::connect(up.local_addr().unwrap()).unwrap();
        });
        inside.join().unwrap();
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = format!("{:#}", bring_up("nosuch0", None).unwrap_err());
        assert!(error.contains("nosuch0"), "{error}");
        assert!(read_answer(&[0; 7]).is_err());
    }
}
