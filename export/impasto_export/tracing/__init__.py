"""Architecture to graph skeleton, with torch and diffusers; nothing outside of this folder imports either."""
