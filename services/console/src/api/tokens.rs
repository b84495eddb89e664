//! Tokens: an operator makes any, a tenant's admin those of the tenant.

use proto::console::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token as Wire};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    caller::{Caller, Role},
    problem::Problem,
    route::{Call, Created, Json, NoContent, Nothing},
};

#[derive(Serialize, JsonSchema)]
pub struct Token {
    id: String,
    name: String,
    role: Role,
    /// Empty: all tenants.
    tenant: String,
    created_at_ms: i64,
    /// 0: never.
    expires_at_ms: i64,
    /// Within a minute; 0: never.
    last_used_at_ms: i64,
}

#[derive(Serialize, JsonSchema)]
pub struct Made {
    token: Token,
    /// Told here and never again.
    secret: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct New {
    /// Whose it is, for people.
    name: String,
    role: Role,
    /// A tenant's admin always makes them for the own tenant.
    #[serde(default)]
    tenant: String,
    /// Days until it is over; 0 means never.
    #[serde(default)]
    valid_days: u32,
}

fn token(wire: Wire) -> Token {
    Token {
        role: Role::of_wire(wire.role()).unwrap_or(Role::Support),
        id: wire.id,
        name: wire.name,
        tenant: wire.tenant,
        created_at_ms: wire.created_at_ms,
        expires_at_ms: wire.expires_at_ms,
        last_used_at_ms: wire.last_used_at_ms,
    }
}

/// Whose token a caller may make: nobody gives more than they have.
fn tenant_of(caller: &Caller, new: &New) -> Result<String, Problem> {
    if caller.role == Role::Operator {
        return Ok(new.tenant.clone());
    }
    if new.role == Role::Operator || !(new.tenant.is_empty() || new.tenant == caller.tenant) {
        return Err(Problem::forbidden("a token cannot do more than whoever makes it"));
    }
    Ok(caller.tenant.clone())
}

pub async fn list(call: Call, _: Nothing, _: Nothing) -> Result<Json<Vec<Token>>, Problem> {
    let request = ListTokensRequest { tenant: call.caller()?.tenant.clone() };
    let tokens = call.app.console.clone().list_tokens(request).await?.into_inner().tokens;
    Ok(Json(tokens.into_iter().map(token).collect()))
}

pub async fn create(call: Call, _: Nothing, new: New) -> Result<Created<Made>, Problem> {
    let tenant = tenant_of(call.caller()?, &new)?;
    let request = CreateTokenRequest {
        name: new.name,
        role: new.role.to_wire().into(),
        tenant,
        valid_seconds: u64::from(new.valid_days) * 86_400,
        ..CreateTokenRequest::default()
    };
    let made = call.app.console.clone().create_token(request).await?.into_inner();
    Ok(Created(Made { token: token(made.token.unwrap_or_default()), secret: made.secret }))
}

pub async fn revoke(call: Call, _: Nothing, _: Nothing) -> Result<NoContent, Problem> {
    let request = RevokeTokenRequest { id: call.part("id").to_owned(), tenant: call.caller()?.tenant.clone() };
    call.app.console.clone().revoke_token(request).await?;
    Ok(NoContent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_makes_a_token_that_can_more() {
        let caller = |role, tenant: &str| Caller {
            id: String::new(),
            name: String::new(),
            role,
            tenant: tenant.into(),
            is_session: false,
            csrf: String::new(),
        };
        let new = |role, tenant: &str| New { name: "n".into(), role, tenant: tenant.into(), valid_days: 0 };
        let admin = caller(Role::TenantAdmin, "acme");
        assert_eq!(tenant_of(&admin, &new(Role::Support, "")).unwrap(), "acme");
        assert_eq!(tenant_of(&admin, &new(Role::TenantAdmin, "acme")).unwrap(), "acme");
        assert_eq!(tenant_of(&admin, &new(Role::Operator, "")).unwrap_err().status, 403);
        assert_eq!(tenant_of(&admin, &new(Role::Support, "other")).unwrap_err().status, 403);
        assert_eq!(tenant_of(&caller(Role::Operator, ""), &new(Role::Operator, "")).unwrap(), "");
    }
}
