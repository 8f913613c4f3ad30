"""What may not differ between actors that live, each rule a function of what they registered."""
