"""A Ray Serve application: the gateway in front of replicas, each with a server of its own. app.py is read first."""
