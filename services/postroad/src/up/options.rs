use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use address::Domain;
use ipnet::IpNet;

/// The services that `--replicas` can multiply.
pub const SERVICES: [&str; 7] =
    ["mda", "auth-checker", "smtp-ingress", "outbound-relay", "imap-gateway", "pop3-gateway", "console"];

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where everything is kept: mail, queue, certificates, logs
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address of the mail ports, and the source of mail to other sites
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Added to the mail ports 25, 587, 465, 143, 993, 110, 995 and to the console's 8080
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=57_455))]
    pub port_offset: u16,
    /// A domain that mail is accepted for; made if it is not there
    #[arg(long, value_name = "D")]
    pub domain: Vec<Domain>,
    /// Our name in greetings and certificate [default: mail.<first domain>, or localhost]
    #[arg(long, value_name = "H")]
    pub hostname: Option<Domain>,
    /// The only name server asked [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns: Option<SocketAddr>,
    /// The port of other sites that mail is sent to
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub relay_port: u16,
    /// Certificate chain; without it, a CA and a certificate are made in DIR/tls
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Connections from here begin with a PROXY protocol header (v1 or v2)
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub proxy_from: Vec<IpNet>,
    /// Run several processes of a service
    #[arg(long, value_name = "SERVICE=N", value_parser = replicas)]
    pub replicas: Vec<(String, u32)>,
    /// Configuration of the services: a YAML file with a section for each
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let expected = |_| "expected a network such as 10.0.0.0/8".to_owned();
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(expected)
}

fn replicas(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("expected SERVICE=N")?;
    if !SERVICES.contains(&service) {
        return Err(format!("expected one of {}", SERVICES.join(", ")));
    }
    match number.parse() {
        Ok(n @ 1..=32) => Ok((service.to_owned(), n)),
        _ => Err("expected a number from 1 to 32".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_single_addresses() {
        assert_eq!(network("10.0.0.0/8").expect("valid").to_string(), "10.0.0.0/8");
        assert_eq!(network("127.0.0.1").expect("valid").to_string(), "127.0.0.1/32");
        assert!(network("localhost").is_err());
    }

    #[test]
    fn replicas_name_a_service() {
        assert_eq!(replicas("mda=2"), Ok(("mda".into(), 2)));
        for wrong in ["mda", "mda=", "mda=0", "postgres=2", "mda=99"] {
            assert!(replicas(wrong).is_err(), "{wrong}");
        }
    }
}
