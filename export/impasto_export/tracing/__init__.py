"""Export architectures as graph skeletons, with torch and diffusers; no other folder imports either."""
