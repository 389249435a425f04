"""Guarded download of pictures from a web that may be slow, broken or hostile.

`fetch` brings bytes and never raises; `pictures` runs img2dataset's Downloader and Resizer around it. Nothing here knows of
tables.

    outcome       what came of an address: status, closed error code, bytes, consent
    names         host names to IP addresses, within a deadline
    addresses     which URL names which host, and which IP addresses may be connected to
    blocklists    domains, URLs and pictures that the operator does not want
    turns         deadline of a URL, slots per host
    transport     one HTTP exchange with a checked address, within limits; idle connections
    robots        robots.txt (RFC 9309): rules, and a bounded memory of them
    stated        what hosts say in the headers X-Robots-Tag and TDM-Reservation
    fetch         redirects, retries, opt-outs: the whole way of one URL
    boxes         places to blur, as a carried column gives them
    resizing      img2dataset's Resizer and Blurrer, behind our decoder
    pictures      img2dataset's loop with this fetch
"""
