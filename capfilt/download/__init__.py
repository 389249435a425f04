"""Guarded download of pictures from a web that may be slow, broken or hostile.

`fetch` brings bytes and never raises; `pictures` runs img2dataset's Downloader and Resizer around it. Nothing here knows of
tables.

    outcome       what came of an address: status, closed error code, bytes, consent
    addresses     which URL names which host, and which IP addresses may be connected to
    turns         deadline of a URL, slots per host
    transport     one HTTP exchange with a checked address, within limits; idle connections
    robots        robots.txt (RFC 9309) and the X-Robots-Tag header
    fetch         redirects, retries, opt-outs: the whole way of one URL
    pictures      img2dataset with this fetch
"""
