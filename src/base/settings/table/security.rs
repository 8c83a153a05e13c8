//! TLS, SASL, delegation tokens, authorisation.

use super::row::{boolean, class, double, int, list, long, password, short, string};
use crate::base::settings::Setting;

#[rustfmt::skip]
pub(super) const ROWS: &[Setting] = &[
    string("authorizer.class.name").default("").low().not_yet()
        .doc("Java class that decides who may do what; empty for no authorisation."),
    string("sasl.mechanism.controller.protocol").default("GSSAPI").high().not_yet()
        .doc("SASL mechanism towards the controller."),
    int("connection.failed.authentication.delay.ms").default("100").at_least(0).ms().low().not_yet()
        .doc("Delay before a connection that failed to authenticate is closed."),
    long("connections.max.reauth.ms").default("0").ms().not_yet()
        .doc("Time after which a SASL connection must authenticate again; 0 for never."),
    int("sasl.server.max.receive.size").default("524288").bytes().not_yet()
        .doc("Largest SASL message that is read."),
    string("security.providers").low().meaningless()
        .doc("Java security providers."),
    class("principal.builder.class").default("org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder").per_broker().not_yet()
        .doc("Java class that makes a principal of a connection."),
    string("ssl.client.auth").default("none").one_of(&["required", "requested", "none"]).per_broker().not_yet()
        .doc("Whether clients must, may or need not show a certificate."),
    string("ssl.principal.mapping.rules").default("DEFAULT").low().not_yet()
        .doc("Rules that make a principal of a certificate's subject."),
    boolean("ssl.allow.dn.changes").default("false").low().not_yet()
        .doc("Whether a new certificate at run time may have another subject."),
    boolean("ssl.allow.san.changes").default("false").low().not_yet()
        .doc("Whether a new certificate at run time may have other names."),
    string("ssl.protocol").default("TLSv1.3").per_broker().not_yet()
        .doc("Version of TLS to prefer."),
    string("ssl.provider").per_broker().meaningless()
        .doc("Java provider of TLS."),
    list("ssl.enabled.protocols").default("TLSv1.2,TLSv1.3").per_broker().not_yet()
        .doc("Versions of TLS that are accepted."),
    string("ssl.keystore.type").default("JKS").per_broker().not_yet()
        .doc("Format of the key store: JKS, PKCS12 or PEM."),
    string("ssl.keystore.location").per_broker().not_yet()
        .doc("File of the key store."),
    password("ssl.keystore.password").per_broker().not_yet()
        .doc("Password of the key store."),
    password("ssl.key.password").per_broker().not_yet()
        .doc("Password of the private key."),
    password("ssl.keystore.key").per_broker().not_yet()
        .doc("The private key itself, as PEM."),
    password("ssl.keystore.certificate.chain").per_broker().not_yet()
        .doc("The certificate chain itself, as PEM."),
    string("ssl.truststore.type").default("JKS").per_broker().not_yet()
        .doc("Format of the trust store: JKS, PKCS12 or PEM."),
    string("ssl.truststore.location").per_broker().not_yet()
        .doc("File of the trust store."),
    password("ssl.truststore.password").per_broker().not_yet()
        .doc("Password of the trust store."),
    password("ssl.truststore.certificates").per_broker().not_yet()
        .doc("The trusted certificates themselves, as PEM."),
    string("ssl.keymanager.algorithm").default("SunX509").per_broker().meaningless()
        .doc("Java algorithm of the key manager."),
    string("ssl.trustmanager.algorithm").default("PKIX").per_broker().meaningless()
        .doc("Java algorithm of the trust manager."),
    string("ssl.endpoint.identification.algorithm").default("https").low().per_broker().not_yet()
        .doc("How a server's name is checked against its certificate; empty for not at all."),
    string("ssl.secure.random.implementation").low().per_broker().meaningless()
        .doc("Java source of randomness for TLS."),
    list("ssl.cipher.suites").default("").per_broker().not_yet()
        .doc("Cipher suites that are accepted; empty for the usual ones."),
    class("ssl.engine.factory.class").low().per_broker().meaningless()
        .doc("Java class that makes TLS engines."),
    string("sasl.mechanism.inter.broker.protocol").default("GSSAPI").per_broker().not_yet()
        .doc("SASL mechanism between brokers."),
    list("sasl.enabled.mechanisms").default("GSSAPI").per_broker().not_yet()
        .doc("SASL mechanisms that are offered."),
    class("sasl.server.callback.handler.class").meaningless()
        .doc("Java class that answers the server side of a SASL mechanism."),
    list("sasl.kerberos.principal.to.local.rules").default("DEFAULT").per_broker().not_yet()
        .doc("Rules that make a short name of a Kerberos principal."),
    password("sasl.jaas.config").per_broker().not_yet()
        .doc("Credentials of a SASL mechanism, in JAAS syntax."),
    class("sasl.client.callback.handler.class").meaningless()
        .doc("Java class that answers the client side of a SASL mechanism."),
    class("sasl.login.class").meaningless()
        .doc("Java class that logs in."),
    class("sasl.login.callback.handler.class").meaningless()
        .doc("Java class that answers a login."),
    string("sasl.kerberos.service.name").per_broker().not_yet()
        .doc("Kerberos name of the service."),
    string("sasl.kerberos.kinit.cmd").default("/usr/bin/kinit").per_broker().not_yet()
        .doc("Path of kinit."),
    double("sasl.kerberos.ticket.renew.window.factor").default("0.8").per_broker().not_yet()
        .doc("Share of a ticket's life after which it is renewed."),
    double("sasl.kerberos.ticket.renew.jitter").default("0.05").per_broker().not_yet()
        .doc("Random share added to the time of renewal."),
    long("sasl.kerberos.min.time.before.relogin").default("60000").per_broker().not_yet()
        .doc("Least time between two Kerberos logins."),
    double("sasl.login.refresh.window.factor").default("0.8").per_broker().not_yet()
        .doc("Share of a credential's life after which it is refreshed."),
    double("sasl.login.refresh.window.jitter").default("0.05").per_broker().not_yet()
        .doc("Random share added to the time of refreshing a credential."),
    short("sasl.login.refresh.min.period.seconds").default("60").seconds().per_broker().not_yet()
        .doc("Least time between two refreshes of a credential."),
    short("sasl.login.refresh.buffer.seconds").default("300").seconds().per_broker().not_yet()
        .doc("Least time before its expiry at which a credential is refreshed."),
    int("sasl.login.connect.timeout.ms").ms().low().not_yet()
        .doc("How long a login waits for a connection to the identity provider."),
    int("sasl.login.read.timeout.ms").ms().low().not_yet()
        .doc("How long a login waits for an answer of the identity provider."),
    long("sasl.login.retry.backoff.max.ms").default("10000").ms().low().not_yet()
        .doc("Longest pause between two attempts to log in."),
    long("sasl.login.retry.backoff.ms").default("100").ms().low().not_yet()
        .doc("First pause between two attempts to log in."),
    class("sasl.oauthbearer.jwt.retriever.class").default("org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever").meaningless()
        .doc("Java class that fetches a token."),
    class("sasl.oauthbearer.jwt.validator.class").default("org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator").meaningless()
        .doc("Java class that checks a token."),
    string("sasl.oauthbearer.scope").not_yet()
        .doc("Scope to ask a token for."),
    string("sasl.oauthbearer.client.credentials.client.id").not_yet()
        .doc("Client id towards the identity provider."),
    password("sasl.oauthbearer.client.credentials.client.secret").not_yet()
        .doc("Client secret towards the identity provider."),
    string("sasl.oauthbearer.assertion.algorithm").default("RS256").one_of_ignore_case(&["ES256", "RS256"]).not_yet()
        .doc("Algorithm that signs an assertion."),
    string("sasl.oauthbearer.assertion.claim.aud").not_yet()
        .doc("Audience of an assertion."),
    int("sasl.oauthbearer.assertion.claim.exp.seconds").default("300").between(0, 86_400).seconds().low().not_yet()
        .doc("Life of an assertion."),
    string("sasl.oauthbearer.assertion.claim.iss").not_yet()
        .doc("Issuer of an assertion."),
    boolean("sasl.oauthbearer.assertion.claim.jti.include").default("false").not_yet()
        .doc("Whether an assertion has an id of its own."),
    int("sasl.oauthbearer.assertion.claim.nbf.seconds").default("60").between(0, 3_600).seconds().low().not_yet()
        .doc("How far back an assertion is already valid."),
    string("sasl.oauthbearer.assertion.claim.sub").not_yet()
        .doc("Subject of an assertion."),
    string("sasl.oauthbearer.assertion.file").not_yet()
        .doc("File with a ready assertion."),
    string("sasl.oauthbearer.assertion.private.key.file").not_yet()
        .doc("File of the key that signs an assertion."),
    password("sasl.oauthbearer.assertion.private.key.passphrase").not_yet()
        .doc("Password of the key that signs an assertion."),
    string("sasl.oauthbearer.assertion.template.file").not_yet()
        .doc("File with further claims of an assertion."),
    string("sasl.oauthbearer.scope.claim.name").default("scope").low().not_yet()
        .doc("Name of the claim that holds a token's scope."),
    string("sasl.oauthbearer.sub.claim.name").default("sub").low().not_yet()
        .doc("Name of the claim that holds a token's subject."),
    string("sasl.oauthbearer.token.endpoint.url").not_yet()
        .doc("Address of the identity provider's token endpoint."),
    string("sasl.oauthbearer.jwks.endpoint.url").not_yet()
        .doc("Address of the identity provider's keys."),
    long("sasl.oauthbearer.jwks.endpoint.refresh.ms").default("3600000").ms().low().not_yet()
        .doc("Time between two fetches of the identity provider's keys."),
    long("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms").default("100").ms().low().not_yet()
        .doc("First pause after a failed fetch of the keys."),
    long("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms").default("10000").ms().low().not_yet()
        .doc("Longest pause after a failed fetch of the keys."),
    int("sasl.oauthbearer.clock.skew.seconds").default("30").seconds().low().not_yet()
        .doc("Difference of clocks allowed when a token is checked."),
    list("sasl.oauthbearer.expected.audience").default("").high().not_yet()
        .doc("Audiences of which a token must name one."),
    string("sasl.oauthbearer.expected.issuer").high().not_yet()
        .doc("Issuer that a token must name."),
    password("delegation.token.secret.key").not_yet()
        .doc("Secret that makes and checks delegation tokens, the same on every node."),
    long("delegation.token.max.lifetime.ms").default("604800000").at_least(1).ms().not_yet()
        .doc("Time after which a delegation token can no longer be renewed."),
    long("delegation.token.expiry.time.ms").default("86400000").at_least(1).ms().not_yet()
        .doc("Time after which a delegation token must be renewed."),
    long("delegation.token.expiry.check.interval.ms").default("3600000").at_least(1).ms().low().not_yet()
        .doc("Time between two looks for expired delegation tokens."),
];
