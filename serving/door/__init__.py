"""Who may come in: certificates, tokens, scopes and tenants, and how much each tenant may ask for."""
