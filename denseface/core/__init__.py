"""What everything else stands on; it knows neither faces nor MXNet."""
