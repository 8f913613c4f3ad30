"""What must hold between the values of a topology: small pure rules, all of them asked at once."""
