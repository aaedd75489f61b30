//! An address at which attempts to connect are swallowed, as at a host that is down.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use super::network::of_two;
use super::*;

/// An address of loopback at which attempts to connect are swallowed, and what makes it so.
fn silent(address: &str) -> (SocketAddr, Socket, Vec<std::net::TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{address}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog does not fill");
    }
    (address, socket, filling)
}

/// None of them lasts for its `connect_timeout`.
#[tokio::test]
async fn an_address_at_which_attempts_make_way_one_after_another_is_left_alone() {
    local(async {
        let (address, _listens, _filling) = silent("127.0.0.2");
        let url = format!("http://backend.test:{}/", address.port());
        let keys = [("pool.max_connections", "1"), ("timeout", "1s"), ("connect_timeout", "30s")];
        let (transport, addresses) = of_two(&url, &keys);
        let asking = || {
            let (among, transport) = (Among::these(Some(vec![address.ip()])), Rc::clone(&transport));
            let progress = Rc::new(Progress { among, ..Progress::default() });
            let asked = Rc::clone(&progress);
            (spawn_local(async move { ask_for("/", &transport, false, &asked).await.map(drop) }), progress)
        };
        let (mut last, progress) = asking();
        while progress.stage() != Stage::Connecting {
            sleep(Duration::from_millis(1)).await;
        }
        tokio::time::pause();
        let known = addresses[0].several().unwrap();
        for _ in 0..5 {
            assert!(!known[0].health.is_open());
            sleep(Duration::from_secs(1)).await;
            let (next, progress) = asking();
            last.abort();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(progress.stage(), Stage::Connecting, "its own attempt");
            last = next;
        }
        assert_eq!(known.iter().map(|known| known.health.is_open()).collect::<Vec<_>>(), [true, false]);
    })
    .await;
}
