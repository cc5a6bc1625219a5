"""What a user does with a study: launch, resume, follow, stop, delete."""
