"""What is live: connections that are kept up, frames that land, batches that follow at once, holes that are filled."""
