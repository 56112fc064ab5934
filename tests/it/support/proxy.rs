//! A proxy in front of an S3 server that does wrong what networks, gateways and stores do wrong, at
//! a chosen request, and remembers every request.
//!
//! ```ignore
//! let proxy = Proxy::before(&server.url());
//! let fault = proxy.inject(Rule::on("PUT", "/wal/").nth(1).lose_reply());
//! // … a push through `proxy.url()` …
//! assert!(fault.was_hit());
//! assert_eq!(proxy.count("PUT", "/wal/"), 2);
//! ```

use super::http::{self, Connection, Content, Framing, Head, Reply, Server};
use super::until;
use std::io::{self, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which requests, and what goes wrong with them.
#[derive(Clone, Default)]
pub struct Rule {
    method: String,
    path: String,
    query: Option<String>,
    header: Option<(String, String)>,
    /// The matches that count, from 1; all unless told.
    first: usize,
    last: Option<usize>,
    every: Option<usize>,
    fault: Fault,
}

/// Everything that may go wrong with one exchange.
#[derive(Clone, Default)]
struct Fault {
    delay: Duration,
    hold: bool,
    deaf: bool,
    /// Headers of the reply: new value, or gone.
    reply: Vec<(String, Option<String>)>,
    /// The byte of the request's body that arrives changed.
    flip: Option<u64>,
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    /// Nothing is forwarded; this is the answer.
    Answer(Reply),
    /// It is carried out; this is the answer.
    AnswerAfter(Reply),
    /// So many bytes of the request's body are taken and nothing is forwarded; then the connection
    /// is reset.
    ResetRequest(u64),
    /// It is carried out; then the connection ends without an answer.
    LoseReply,
    /// Of the reply's body comes this part; then the connection ends, or is reset.
    CutReply { percent: u64, reset: bool },
    /// The connection ends behind a complete answer that did not announce it.
    Close,
}

impl Rule {
    /// Requests of this method (any, when it is empty) with this in their decoded path.
    pub fn on(method: &str, path: &str) -> Rule {
        Rule { method: method.to_owned(), path: path.to_owned(), first: 1, ..Rule::default() }
    }

    /// Only with this in the decoded query. An empty text is a request without any query but
    /// `x-id`.
    pub fn query(mut self, query: &str) -> Rule {
        self.query = Some(query.to_owned());
        self
    }

    /// Only with this in a header.
    pub fn header(mut self, name: &str, value: &str) -> Rule {
        self.header = Some((name.to_owned(), value.to_owned()));
        self
    }

    /// Only the match of this number, from 1.
    pub fn nth(self, n: usize) -> Rule {
        self.from(n).up_to(n)
    }

    /// Only matches up to this number.
    pub fn up_to(mut self, n: usize) -> Rule {
        self.last = Some(n);
        self
    }

    /// Only matches from this number on.
    pub fn from(mut self, n: usize) -> Rule {
        self.first = n;
        self
    }

    /// Of those, only one in `n`, beginning with the first.
    pub fn every(mut self, n: usize) -> Rule {
        self.every = Some(n);
        self
    }

    /// The request arrives so much later.
    pub fn delay(mut self, delay: Duration) -> Rule {
        self.fault.delay = delay;
        self
    }

    /// The request waits until the rules are cleared or the proxy goes away; see
    /// [`Injected::await_hit`].
    pub fn hold(mut self) -> Rule {
        self.fault.hold = true;
        self
    }

    /// The request arrives at a store that knows no conditional requests. (To take a header away
    /// would not do: it is signed.) Understood by the tests' own server alone.
    pub fn deaf(mut self) -> Rule {
        self.fault.deaf = true;
        self
    }

    /// The reply has this header.
    pub fn reply_header(mut self, name: &str, value: &str) -> Rule {
        self.fault.reply.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    /// The reply lacks this header.
    pub fn strip_reply(mut self, header: &str) -> Rule {
        self.fault.reply.push((header.to_owned(), None));
        self
    }

    /// This byte of the request's body arrives changed.
    pub fn flip(mut self, at: u64) -> Rule {
        self.fault.flip = Some(at);
        self
    }

    fn end(mut self, end: End) -> Rule {
        self.fault.end = Some(end);
        self
    }

    /// Answered by the proxy; the server hears nothing.
    pub fn answer(self, reply: Reply) -> Rule {
        self.end(End::Answer(reply))
    }

    /// An S3 error, answered by the proxy.
    pub fn error(self, status: u16, code: &str) -> Rule {
        self.answer(Reply::error(status, code))
    }

    /// Carried out by the server, answered by the proxy.
    pub fn answer_after(self, reply: Reply) -> Rule {
        self.end(End::AnswerAfter(reply))
    }

    /// Takes so much of the request's body, forwards nothing, resets the connection.
    pub fn reset_request(self, after: u64) -> Rule {
        self.end(End::ResetRequest(after))
    }

    /// Carried out by the server, and never answered.
    pub fn lose_reply(self) -> Rule {
        self.end(End::LoseReply)
    }

    /// The reply's body ends early.
    pub fn cut_reply(self, percent: u64) -> Rule {
        self.end(End::CutReply { percent, reset: false })
    }

    /// The reply's body ends early, with a reset.
    pub fn reset_reply(self, percent: u64) -> Rule {
        self.end(End::CutReply { percent, reset: true })
    }

    /// The connection is closed behind the reply, without a word.
    pub fn close(self) -> Rule {
        self.end(End::Close)
    }

    fn matches(&self, head: &Head) -> bool {
        let query = head.query();
        (self.method.is_empty() || self.method == head.method())
            && head.path().contains(&self.path)
            && match self.query.as_deref() {
                None => true,
                Some("") => query.is_empty() || (query.starts_with("x-id=") && !query.contains('&')),
                Some(text) => query.contains(text),
            }
            && self
                .header
                .as_ref()
                .is_none_or(|(name, text)| head.get(name).is_some_and(|value| value.contains(text.as_str())))
    }

    fn counts(&self, n: usize) -> bool {
        n >= self.first
            && self.last.is_none_or(|last| n <= last)
            && self.every.is_none_or(|every| (n - self.first).is_multiple_of(every))
    }
}

/// A rule at work.
#[derive(Clone)]
pub struct Injected {
    hits: Arc<AtomicUsize>,
}

impl Injected {
    /// How many requests met the fault.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub fn was_hit(&self) -> bool {
        self.hits() > 0
    }

    /// Waits until a request met the fault: one that is held is standing at the proxy then.
    #[track_caller]
    pub fn await_hit(&self) {
        until("a request meets the fault", || self.was_hit());
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: Head,
    /// Of the reply that was sent; none when there was none.
    pub status: Option<u16>,
}

impl Seen {
    /// `PUT /bucket/key?query`, decoded.
    pub fn line(&self) -> String {
        let query = self.head.query();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{} {}{mark}{query}", self.head.method(), self.head.path())
    }

    /// The access key that it was signed with.
    pub fn access_key(&self) -> String {
        let signed = self.head.get("authorization").unwrap_or_default();
        let credential = signed.split_once("Credential=").map_or("", |(_, rest)| rest);
        credential.split('/').next().unwrap_or_default().to_owned()
    }
}

struct Working {
    rule: Rule,
    seen: usize,
    hits: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    rules: Vec<Working>,
    log: Vec<Seen>,
    connections: usize,
    /// Every [`Proxy::clear`] begins a new one, and lets go who was held in an earlier one.
    generation: u64,
}

struct Shared {
    /// `127.0.0.1:40123`.
    upstream: String,
    state: Mutex<State>,
    let_go: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a request; what is to go wrong with it, and its place in the log.
    fn note(&self, head: &Head) -> (Fault, usize, u64) {
        let mut state = self.state();
        state.log.push(Seen { head: head.clone(), status: None });
        let mut fault = Fault::default();
        for working in &mut state.rules {
            if working.rule.matches(head) {
                working.seen += 1;
                if working.rule.counts(working.seen) {
                    fault.add(&working.rule.fault);
                    working.hits.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        (fault, state.log.len() - 1, state.generation)
    }

    fn answered(&self, at: usize, status: u16) {
        if let Some(seen) = self.state().log.get_mut(at) {
            seen.status = Some(status);
        }
    }

    fn wait(&self, generation: u64) {
        let mut state = self.state();
        while state.generation == generation {
            state = self.let_go.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Fault {
    fn add(&mut self, other: &Fault) {
        self.delay += other.delay;
        self.hold |= other.hold;
        self.deaf |= other.deaf;
        self.reply.extend(other.reply.iter().cloned());
        self.flip = self.flip.or(other.flip);
        self.end = self.end.take().or_else(|| other.end.clone());
    }
}

/// The proxy, on a free port; gone when dropped.
pub struct Proxy {
    server: Server,
    shared: Arc<Shared>,
}

impl Proxy {
    /// In front of `http://HOST:PORT`.
    pub fn before(upstream: &str) -> Proxy {
        Proxy::start("127.0.0.1", upstream, None)
    }

    /// On another address of this machine: `[::1]`.
    pub fn at(host: &str, upstream: &str) -> Proxy {
        Proxy::start(host, upstream, None)
    }

    /// Speaks HTTPS with its clients.
    pub fn with_tls(upstream: &str, certificate: &Path, key: &Path) -> Proxy {
        Proxy::start("127.0.0.1", upstream, Some((certificate, key)))
    }

    fn start(host: &str, upstream: &str, tls: Option<(&Path, &Path)>) -> Proxy {
        let address =
            upstream.strip_prefix("http://").unwrap_or_else(|| panic!("{upstream} is not plain HTTP"));
        let upstream = address.trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), let_go: Condvar::new() });
        let state = shared.clone();
        let tls = tls.map(|(certificate, key)| http::certificate(certificate, key));
        let server = Server::start(host, tls, move |connection| serve(&state, connection));
        Proxy { server, shared }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Lets something go wrong from now on. Several rules add up; of two ends of one exchange the
    /// first one counts.
    pub fn inject(&self, rule: Rule) -> Injected {
        let hits = Arc::new(AtomicUsize::new(0));
        self.shared.state().rules.push(Working { rule, seen: 0, hits: hits.clone() });
        Injected { hits }
    }

    /// Nothing goes wrong any more, and nobody is held.
    pub fn clear(&self) {
        let mut state = self.shared.state();
        state.rules.clear();
        state.generation += 1;
        self.shared.let_go.notify_all();
    }

    /// Every request so far, in the order in which they came.
    pub fn log(&self) -> Vec<Seen> {
        self.shared.state().log.clone()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.state().log.clear();
    }

    /// The requests so far, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.log().iter().map(Seen::line).collect()
    }

    /// How many requests of this method (any, when it is empty) had this in their path or query.
    pub fn count(&self, method: &str, text: &str) -> usize {
        let there =
            |seen: &Seen| (method.is_empty() || seen.head.method() == method) && seen.line().contains(text);
        self.log().iter().filter(|seen| there(seen)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Serves one connection of a client.
fn serve(shared: &Shared, client: &mut Connection) -> io::Result<()> {
    shared.state().connections += 1;
    while let Some(head) = Head::read(&mut client.wire)? {
        let (fault, at, generation) = shared.note(&head);
        std::thread::sleep(fault.delay);
        if fault.hold {
            shared.wait(generation);
        }
        let exchange = Exchange { shared, head, fault, at };
        if !exchange.carry_out(client)? {
            break;
        }
    }
    Ok(())
}

/// One request with its reply.
struct Exchange<'s> {
    shared: &'s Shared,
    head: Head,
    fault: Fault,
    at: usize,
}

impl Exchange<'_> {
    /// Whether another request may follow on this connection.
    fn carry_out(&self, client: &mut Connection) -> io::Result<bool> {
        match &self.fault.end {
            Some(End::Answer(reply)) => {
                client.body(&self.head)?;
                self.answer(client, reply)
            }
            Some(End::ResetRequest(after)) => {
                client.invite(&self.head)?;
                let body = Content::new(&mut client.wire, self.head.framing(false));
                io::copy(&mut body.take(*after), &mut io::sink())?;
                client.reset();
                Ok(false)
            }
            _ => {
                let mut server = self.forward(client)?;
                let mut reply = Head::read(&mut server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                while reply.status() == 100 {
                    reply = Head::read(&mut server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                }
                self.pass_back(reply, &mut server, client)
            }
        }
    }

    fn answer(&self, client: &mut Connection, reply: &Reply) -> io::Result<bool> {
        self.shared.answered(self.at, reply.status);
        client.answer(reply, &self.head)?;
        Ok(true)
    }

    /// Sends the request on, over a connection of its own.
    fn forward(&self, client: &mut Connection) -> io::Result<BufReader<TcpStream>> {
        let mut server = TcpStream::connect(&self.shared.upstream)?;
        server.set_nodelay(true)?;
        client.invite(&self.head)?;
        let mut head = self.head.clone();
        head.remove("expect");
        if self.fault.deaf {
            head.set("x-walkeep-deaf", "1");
        }
        head.write(&mut server)?;
        let framing = self.head.framing(false);
        let mut body = Content::new(&mut client.wire, framing);
        let mut passed = 0;
        let mut piece = vec![0; 64 << 10];
        loop {
            let got = body.read(&mut piece)?;
            if got == 0 {
                break;
            }
            if let Some(byte) =
                self.fault.flip.and_then(|at| at.checked_sub(passed)).filter(|at| *at < got as u64)
            {
                piece[byte as usize] ^= 0x10;
            }
            http::write_piece(&mut server, framing, &piece[..got])?;
            passed += got as u64;
        }
        http::write_end(&mut server, framing)?;
        Ok(BufReader::new(server))
    }

    fn pass_back(
        &self,
        mut reply: Head,
        server: &mut BufReader<TcpStream>,
        client: &mut Connection,
    ) -> io::Result<bool> {
        let bodiless = self.head.method() == "HEAD" || matches!(reply.status(), 204 | 304);
        let framing = if bodiless { Framing::Length(0) } else { reply.framing(true) };
        let mut body = Content::new(server, framing);
        let mut percent = 100;
        let mut reset = false;
        match &self.fault.end {
            Some(End::LoseReply) => {
                io::copy(&mut body, &mut io::sink())?;
                return Ok(false);
            }
            Some(End::AnswerAfter(instead)) => {
                io::copy(&mut body, &mut io::sink())?;
                return self.answer(client, instead);
            }
            Some(End::CutReply { percent: part, reset: hard }) => (percent, reset) = (*part, *hard),
            _ => {}
        }
        self.shared.answered(self.at, reply.status());
        edit(&mut reply, &self.fault.reply);
        let mut content = Vec::new();
        body.read_to_end(&mut content)?;
        let cut = content.len() as u64 * percent / 100;
        let mut bytes = Vec::with_capacity(content.len() + 1024);
        reply.write(&mut bytes)?;
        if !content.is_empty() {
            http::write_piece(&mut bytes, framing, &content[..cut as usize])?;
        }
        if percent < 100 {
            client.writer().write_all(&bytes)?;
            client.writer().flush()?;
            if reset {
                client.reset();
            }
            return Ok(false);
        }
        http::write_end(&mut bytes, framing)?;
        client.writer().write_all(&bytes)?;
        client.writer().flush()?;
        Ok(framing != Framing::Connection && !matches!(self.fault.end, Some(End::Close)))
    }
}

fn edit(head: &mut Head, edits: &[(String, Option<String>)]) {
    for (name, value) in edits {
        match value {
            None => head.remove(name),
            Some(value) => head.set(name, value),
        }
    }
}
